"""What a look from outside asks of a server."""

from typing import Final

SURVEY_SERVER: Final = """
SELECT current_setting('server_version'), current_setting('max_connections')::integer,
       clock_timestamp()
"""
# kvqueue_schema needs to be written by whoever migrates, and by nobody else. $1 is a quoted name.
SURVEY_RIGHTS: Final = """
SELECT relname, wanted
  FROM pg_catalog.pg_class AS class
  JOIN pg_catalog.pg_namespace AS space ON space.oid = class.relnamespace
 CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS wanted
 WHERE '"' || replace(nspname, '"', '""') || '"' = $1
   AND relkind = 'r' AND relname LIKE 'kvqueue\\_%'
   AND (relname <> 'kvqueue_schema' OR wanted = 'SELECT')
   AND NOT has_table_privilege(class.oid, wanted)
 ORDER BY relname, wanted
"""
