-- Makes changes if nothing that they were decided by has changed meanwhile: all of them, or none.
--
-- KEYS: as the guards and changes number them
-- ARGV: how many guards; each guard: key, field, `=` or `-` (absent), value; then changes:
--   `set` key field value | `unset` key field | `place` key score member | `unplace` key member | `strip` key before, with the record as the first key
-- Back: 1 where they were made, 0 where a guard did not hold
local at = 2
for _ = 1, tonumber(ARGV[1]) do
  local found = redis.call('HGET', KEYS[tonumber(ARGV[at])], ARGV[at + 1])
  local wanted = ARGV[at + 2] == '=' and ARGV[at + 3]
  if found ~= wanted then return 0 end
  at = at + 4
end
while ARGV[at] do
  local change, key = ARGV[at], KEYS[tonumber(ARGV[at + 1])]
  if change == 'set' then
    redis.call('HSET', key, ARGV[at + 2], ARGV[at + 3])
    at = at + 4
  elseif change == 'unset' then
    redis.call('HDEL', key, ARGV[at + 2])
    at = at + 3
  elseif change == 'place' then
    redis.call('ZADD', key, ARGV[at + 2], ARGV[at + 3])
    at = at + 4
  elseif change == 'unplace' then
    redis.call('ZREM', key, ARGV[at + 2])
    at = at + 3
  elseif change == 'strip' then
    local head = redis.call('HGET', key, 'h')
    local number, revision, _, from, rest = string.match(head, '^(%d+) (%d+) (%d+) (%d+) (.*)$')
    local kept, retained = slot_of(key, tonumber(ARGV[at + 2]), tonumber(from), tonumber(number), tonumber(revision))
    redis.call('HSET', key, 'h', string.format('%s %s %.0f %.0f %s', number, revision, retained, kept, rest))
    cut_before(KEYS[1], key, tonumber(from), kept)
    at = at + 3
  else
    error('there is no such change: ' .. change)
  end
end
return 1
