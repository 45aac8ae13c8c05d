-- Reads a head and a bounded run of the commits of one stream, all of one moment.
--
-- KEYS: meta, stream
-- ARGV: start (`first`, `last`, a revision, or `#` and a slot), direction (`forward`, `backward`), most commits, most bytes
-- Back: {record, head, commit...}
local head = redis.call('HGET', KEYS[2], 'h')
local page = {redis.call('HGET', KEYS[1], 'record'), head}
local commits_max, bytes_left = tonumber(ARGV[3]), tonumber(ARGV[4])
if not head or commits_max == 0 then return page end
local number, revision, retained, from = string.match(head, '^(%d+) (%d+) (%d+) (%d+) ')
number, revision, retained, from = tonumber(number), tonumber(revision), tonumber(retained), tonumber(from)
local forward = ARGV[2] == 'forward'

local slot
if string.sub(ARGV[1], 1, 1) == '#' then
  slot = tonumber(string.sub(ARGV[1], 2))
  if not forward and slot < from then return page end
else
  local wanted = (ARGV[1] == 'first' and retained) or (ARGV[1] == 'last' and revision) or tonumber(ARGV[1])
  if forward then wanted = math.max(wanted, retained) else wanted = math.min(wanted, revision) end
  if wanted < retained or wanted > revision then return page end
  slot = slot_of(KEYS[2], wanted, from, number, revision)
end

local step, last = 1, number
if not forward then step, last = -1, from end
for at = slot, last, step do
  local value = redis.call('HGET', KEYS[2], string.format('%.0f', at))
  page[#page + 1] = value
  bytes_left = bytes_left - (value and #value or 0)
  if #page - 2 >= commits_max or bytes_left <= 0 then break end
end
return page
