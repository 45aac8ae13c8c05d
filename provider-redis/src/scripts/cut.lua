-- Goes on with the cutting that a truncation or a deletion left to be done.
--
-- KEYS: meta, stream
-- Back: 1 where some is left, else 0
local found = redis.call('HMGET', KEYS[2], 'c', 'h')
if not found[1] then return 0 end
local first, kept = tonumber(found[1]), tonumber(string.match(found[2], '^%d+ %d+ %d+ (%d+) '))
local last = math.min(first + CUT_MAX, kept) - 1
cut(KEYS[2], first, last)
if last + 1 < kept then
  redis.call('HSET', KEYS[2], 'c', string.format('%.0f', last + 1))
  return 1
end
redis.call('HDEL', KEYS[2], 'c')
redis.call('HINCRBY', KEYS[1], 'cutting', -1)
return 0
