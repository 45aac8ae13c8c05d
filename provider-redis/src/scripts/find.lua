-- Finds a commit by its id, without its events.
--
-- KEYS: stream
-- ARGV: id field
local slot = redis.call('HGET', KEYS[1], ARGV[1])
local value = slot and redis.call('HGET', KEYS[1], slot)
return value and without_events(value)
