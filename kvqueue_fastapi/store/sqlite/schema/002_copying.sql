-- oldest code: 1

-- How far a copy of another store into this one has come; while it is there, nobody may use this.
ALTER TABLE kvqueue_schema ADD COLUMN copying TEXT;
