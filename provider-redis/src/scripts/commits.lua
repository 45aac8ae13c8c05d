-- What the scripts know of a stored commit: `1 number first count position time stub-bytes checksum`, a line break, the
-- stub, the events. A commit is stripped by cutting its events off.
local HEADER = '^1 %d+ (%d+) (%d+) %d+ %-?%d+ (%d+) %x+\n()'

local function frame(slot, first, count, position, time, stub, events)
  local header = string.format('1 %s %.0f %s %.0f %s %d', slot, first, count, position, time, #stub)
  return header .. ' ' .. string.sub(redis.sha1hex(header), 1, 8) .. '\n' .. stub .. events
end

local function without_events(value)
  local _, _, stub, body = string.match(value, HEADER)
  return body and string.sub(value, 1, body - 1 + stub) or value
end

-- What is to be cut where all commits that lie wholly before a revision are stripped, and what is kept first then.
local function to_strip(key, before, number, revision, from)
  local stubs = {}
  for slot = from, number do
    local field = string.format('%.0f', slot)
    local value = redis.call('HGET', key, field) or ''
    local first, count, stub, body = string.match(value, HEADER)
    if not body then error('a commit is missing or damaged: ' .. field) end
    if tonumber(count) > 0 and #value > body - 1 + stub then
      if first + count - 1 >= before then return stubs, tonumber(first), slot end
      stubs[#stubs + 1] = {field, string.sub(value, 1, body - 1 + stub)}
    end
  end
  return stubs, revision + 1, number + 1
end

local function strip(key, stubs)
  for _, stub in ipairs(stubs) do redis.call('HSET', key, stub[1], stub[2]) end
end
