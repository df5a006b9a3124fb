-- Requests of one kind: `wrk ... -s kinds.lua URL -- METHOD PATH [HEADER VALUE]`. Each %d in the path
-- is a number that is new each time; so is the length of a value that is %s.
local number = 0
local method, path, name, value

function init(arguments)
  method, path, name, value = arguments[1], arguments[2], arguments[3], arguments[4]
end

function request()
  number = number + 1
  if name then
    wrk.headers[name] = value == "%s" and string.rep("x", number % 40) or value
  end
  return wrk.format(method, string.format(path, number))
end
