-- For a role that reads and appends, and for one that only reads: every right that they need, and no more. Run by the owner of the schema,
-- with the names in place of those in braces.
GRANT USAGE ON SCHEMA {schema} TO {writer}, {reader};
GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {writer}, {reader};
GRANT EXECUTE ON FUNCTION {schema}.append, {schema}.append_one, {schema}.sequence_commits TO {writer};
GRANT INSERT, UPDATE, DELETE ON {schema}.snapshots, {schema}.records TO {writer};
