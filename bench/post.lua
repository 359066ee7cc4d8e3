-- Makes wrk send POST requests. The argument is their body; an `@` in the path becomes one of a thousand numbers, in turn.
local requests, last = {}, 0

init = function(args)
   wrk.method = "POST"
   wrk.body = args[1]
   for number = 1, 1000 do
      requests[number] = wrk.format(nil, (wrk.path:gsub("@", number)))
   end
end

request = function()
   last = last % #requests + 1
   return requests[last]
end

