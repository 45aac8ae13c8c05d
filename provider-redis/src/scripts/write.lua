-- Decides one commit or marker, and writes it.
--
-- It writes only where nothing can be said against it: the record is the one that the caller decided by, the id is new in
-- its stream, the stream is open and as expected, and the numbers suffice. Else it gives back what it found, and the
-- caller decides by the rules that all providers share. Everything is looked at before the first write, because a script
-- that fails is not rolled back.
--
-- KEYS: meta, stream, feed, streams
-- ARGV: token, id field, id in hex, expected, creates, kind, count, now, stub, events, before, name, number max
-- Back: {1, number, first, position, time, retained} or {0, record, position, head, commit of that id}
local meta = redis.call('HMGET', KEYS[1], 'token', 'position')
local found = redis.call('HMGET', KEYS[2], 'h', ARGV[2])
local count, max, before = tonumber(ARGV[7]), tonumber(ARGV[13]), tonumber(ARGV[11])
local position = tonumber(meta[2] or 'nan')
local number, revision, retained, from, time, open = 0, 0, 1, 1, ARGV[8], ARGV[5] == '1' and ARGV[6] ~= 't'
if found[1] then
  local kind, last
  number, revision, retained, from, last, kind =
    string.match(found[1], '^(%d+) (%d+) (%d+) (%d+) (%-?%d+) (%a)')
  number, revision, retained, from = tonumber(number), tonumber(revision), tonumber(retained), tonumber(from)
  open = kind ~= 'd' and kind ~= 'o'
  if tonumber(last) > tonumber(time) then time = last end
end
local expected = ARGV[4] == 'any' or (ARGV[4] == 'exists' and revision > 0) or tonumber(ARGV[4]) == revision
local fits = ARGV[6] ~= 't' or (before >= 2 and before <= revision + 1)
local taken = count
if taken == 0 then taken = 1 end
local numbers = revision + count + 1 <= max and number + 1 <= max and position and position + taken <= max
if meta[1] ~= ARGV[1] or found[2] or not (open and expected and fits and numbers) then
  local commit = found[2] and redis.call('HGET', KEYS[2], found[2])
  return {0, redis.call('HGET', KEYS[1], 'record'), meta[2], found[1], commit and without_events(commit)}
end
if ARGV[6] == 'd' then before = revision + 1 end
local kept = from
if before then kept, retained = slot_of(KEYS[2], before, from, number, revision) end

number = number + 1
local slot = string.format('%.0f', number)
local value = frame(slot, revision + 1, ARGV[7], position + 1, time, ARGV[9], ARGV[10])
local last = position + taken
if ARGV[6] == 'd' then redis.call('HDEL', KEYS[2], 's') end
redis.call('HSET', KEYS[2], slot, value, ARGV[2], slot, 'h',
  string.format('%s %.0f %.0f %.0f %s %s - %s', slot, revision + count, retained, kept, time, ARGV[6], ARGV[3]))
redis.call('ZADD', KEYS[3], string.format('%.0f', position + 1),
  string.format('%.0f %s %d ', last, slot, #value) .. ARGV[12])
redis.call('HSET', KEYS[1], 'position', string.format('%.0f', last))
if before then cut_before(KEYS[1], KEYS[2], from, kept) end
if number == 1 then redis.call('ZADD', KEYS[4], 0, ARGV[12]) end
return {1, number, revision + 1, position + 1, time, retained}
