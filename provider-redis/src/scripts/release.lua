-- Takes the events away from commits that an archive holds, a bounded number at a time. Head and cut stay as they are.
--
-- KEYS: meta, stream
-- ARGV: token, first revision that is not released, slot from which on to look
-- Back: {1, the slot to go on from; 0 at the end} or {0, record} where the record is another than the caller knew
local meta = redis.call('HMGET', KEYS[1], 'token', 'record')
if meta[1] ~= ARGV[1] then return {0, meta[2]} end
local head = redis.call('HGET', KEYS[2], 'h')
if not head then return {1, 0} end
local number, revision, _, from = string.match(head, '^(%d+) (%d+) (%d+) (%d+) ')
number, revision, from = tonumber(number), tonumber(revision), math.max(tonumber(from), tonumber(ARGV[3]))
local before = math.min(tonumber(ARGV[2]), revision + 1)
local kept = slot_of(KEYS[2], before, tonumber(string.match(head, '^%d+ %d+ %d+ (%d+) ')), number, revision)
local last = math.min(from + CUT_MAX, kept) - 1
cut(KEYS[2], from, last)
if last + 1 < kept then return {1, last + 1} end
return {1, 0}
