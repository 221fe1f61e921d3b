-- Nodes say whether they are about to go.
UPDATE nodes SET record = json_set(record, '$.leaving', json('false')) WHERE json_extract(record, '$.leaving') IS NULL;
