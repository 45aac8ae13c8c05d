-- Reads the places of the feed from the one that holds a position.
--
-- KEYS: meta, feed
-- ARGV: position, most places
-- Back: {record, last position, safe position, ends of histories, streams that are being cut, {member, first position, ...}}
local meta = redis.call('HMGET', KEYS[1], 'record', 'position', 'safe', 'ends', 'cutting')
local holds = redis.call('ZREVRANGEBYSCORE', KEYS[2], ARGV[1], '-inf', 'WITHSCORES', 'LIMIT', 0, 1)
local places = redis.call('ZRANGEBYSCORE', KEYS[2], holds[2] or '-inf', '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
return {meta[1], meta[2], meta[3], meta[4], meta[5], places}
