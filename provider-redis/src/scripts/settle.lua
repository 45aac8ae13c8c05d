-- Raises the position up to which enough replicas hold the feed.
--
-- KEYS: meta
-- ARGV: position
local safe = tonumber(redis.call('HGET', KEYS[1], 'safe') or '0')
if tonumber(ARGV[1]) > safe then redis.call('HSET', KEYS[1], 'safe', ARGV[1]) end
return 1
