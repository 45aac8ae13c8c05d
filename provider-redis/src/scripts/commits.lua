-- What the scripts know of a stored commit: `1 number first count position time stub-bytes checksum`, a line break, the
-- stub, the events. A commit is stripped by cutting its events off.
local HEADER = '^1 %d+ %d+ %d+ %d+ %-?%d+ (%d+) %x+\n()'
-- Commits that one script cuts at most: it holds up everybody else meanwhile.
local CUT_MAX = 512

local function frame(slot, first, count, position, time, stub, events)
  local header = string.format('1 %s %.0f %s %.0f %s %d', slot, first, count, position, time, #stub)
  return header .. ' ' .. string.sub(redis.sha1hex(header), 1, 8) .. '\n' .. stub .. events
end

local function without_events(value)
  local stub, body = string.match(value, HEADER)
  return body and string.sub(value, 1, body - 1 + stub) or value
end

-- The first slot whose last revision is not below one, and its first revision; what comes next where there is none.
local function slot_of(key, wanted, from, number, revision)
  local low, high, found = from, number + 1, revision + 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    local field = string.format('%.0f', middle)
    local first, count = string.match(redis.call('HGET', key, field) or '', '^1 %d+ (%d+) (%d+) ')
    if not first then error('a commit is missing or damaged: ' .. field) end
    if first + count - 1 >= wanted then high, found = middle, tonumber(first) else low = middle + 1 end
  end
  return low, found
end

local function cut(key, first, last)
  for slot = first, last do
    local field = string.format('%.0f', slot)
    local value = redis.call('HGET', key, field)
    local stub = value and without_events(value)
    if stub and #stub < #value then redis.call('HSET', key, field, stub) end
  end
end

-- Cuts the slots before the first one that is kept, or notes down that they are still to be cut, where they are many: readers
-- leave out what stands before it either way.
local function cut_before(meta, key, from, kept)
  if redis.call('HEXISTS', key, 'c') == 1 then return end
  if kept - from <= CUT_MAX then return cut(key, from, kept - 1) end
  redis.call('HSET', key, 'c', string.format('%.0f', from))
  redis.call('HINCRBY', meta, 'cutting', 1)
end
