-- What an entry says to people, for those that belong to a deployment.
ALTER TABLE entries ADD COLUMN words TEXT;
