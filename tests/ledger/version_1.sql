-- A ledger as schema version 1 wrote it: `sqlite3 usage.db .dump`, and what that leaves out.
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE IF NOT EXISTS "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
INSERT INTO _sqlite_migrations VALUES(1,'keyrouter_openai','attempts_and_keys','2026-11-25 18:16:12.129222+00:00');
CREATE TABLE IF NOT EXISTS "attempts" (
   "id" INTEGER PRIMARY KEY,
   "at" REAL NOT NULL,
   "request_id" TEXT NOT NULL,
   "number" INTEGER NOT NULL,
   "pool" TEXT NOT NULL,
   "key" TEXT NOT NULL,
   "account" TEXT NOT NULL,
   "provider" TEXT NOT NULL,
   "endpoint" TEXT NOT NULL,
   "outcome" TEXT NOT NULL,
   "model" TEXT,
   "served_model" TEXT,
   "status" INTEGER,
   "detail" TEXT NOT NULL,
   "stream" INTEGER NOT NULL,
   "prompt_tokens" INTEGER,
   "completion_tokens" INTEGER,
   "cached_tokens" INTEGER,
   "cache_written_tokens" INTEGER,
   "reasoning_tokens" INTEGER,
   "audio_tokens" INTEGER,
   "usage_estimated" INTEGER,
   "cost_microusd" INTEGER,
   "price_source" TEXT,
   "first_byte_s" REAL,
   "seconds" REAL NOT NULL,
   "waited_s" REAL NOT NULL,
   "provider_request_id" TEXT,
   "tags" TEXT NOT NULL
);
INSERT INTO attempts VALUES(1,1700000000.0,'r1',1,'team','a','acme','openai','/chat/completions','ok','gpt-4o',NULL,200,'',0,100,20,60,10,5,1,1,NULL,NULL,NULL,0.0,0.0,NULL,'{"tenant": "t1"}');
INSERT INTO attempts VALUES(2,1700000000.0,'r2',1,'team','a','acme','openai','/chat/completions','rate_limit',NULL,NULL,429,'',0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0.0,0.0,NULL,'{}');
CREATE TABLE IF NOT EXISTS "keys" (
   "pool" TEXT NOT NULL,
   "name" TEXT NOT NULL,
   "metadata" TEXT NOT NULL,
   "enabled" INTEGER NOT NULL,
   "added_at" REAL NOT NULL,
   PRIMARY KEY ("pool", "name")
);
INSERT INTO keys VALUES('team','a','{"account":"acme","models":["gpt-4o*"]}',1,1795630572.1314029693);
INSERT INTO keys VALUES('team','b','{"provider":"groq"}',0,1795630572.132826805);
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");
CREATE INDEX "idx_attempts_at"
    ON "attempts" ("at");
CREATE INDEX "idx_attempts_pool_key_at"
    ON "attempts" ("pool", "key", "at");
COMMIT;
PRAGMA user_version=1;
PRAGMA journal_mode=WAL;
