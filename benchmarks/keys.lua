-- Requests that show keys: `wrk ... -s keys.lua URL -- each|turns TOKEN...`. With `each` a thread of wrk
-- always shows the same token, and with `turns` one after the other.
local threads, shown, turn = 0, {}, 0

function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

function init(arguments)
  turn = number
  for place = 2, #arguments do
    wrk.headers["Authorization"] = "Bearer " .. arguments[place]
    shown[#shown + 1] = wrk.format("GET", "/next")
  end
  step = arguments[1] == "turns" and 1 or 0
end

function request()
  turn = turn + step
  return shown[turn % #shown + 1]
end
