-- Writes, so that a WAIT behind it covers everything that was written before, and says up to where that is.
--
-- KEYS: meta
-- Back: the last position
redis.call('HINCRBY', KEYS[1], 'touched', 1)
return redis.call('HGET', KEYS[1], 'position')
