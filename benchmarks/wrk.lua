-- Requests with a token and a trace id, which is different in each.
local number = 0
local form = "GET /next HTTP/1.1\r\nHost: 127.0.0.1\r\n%s"
  .. "Authorization: Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abcdefghijklmnopqrstu\r\n"
  .. "traceparent: 00-%032x-%016x-01\r\n\r\n"
local rest = ""

function init(arguments)
  for name, value in pairs(wrk.headers) do
    if name ~= "Host" then rest = rest .. name .. ": " .. value .. "\r\n" end
  end
end

function request()
  number = number + 1
  return string.format(form, rest, number, number + 4096)
end
