// Consumes a topic with nsqjs, which is told nothing but where one node answers lookups.
// Arguments: lookup address, topic, channel, count. Prints one finished message a line; ends with 0 after
// `count` different ones (0: never, until it is killed), and with 1 and a reason when that takes too long.
'use strict'

const { Reader } = require('nsqjs')

const [lookup, topic, channel, count] = process.argv.slice(2)
const wanted = Number(count)
const bodies = new Set()

function end(code, text) {
  if (text) console.error(text)
  process.exit(code)
}

if (wanted > 0) setTimeout(() => end(1, `${bodies.size} of ${wanted} messages after 90 s`), 90000)

const reader = new Reader(topic, channel, {
  lookupdHTTPAddresses: [lookup], lookupdPollInterval: 1, lookupdPollJitter: 0.01, maxInFlight: 50,
  heartbeatInterval: 1, maxBackoffDuration: 0,
})
// A node that was killed is an error here; the next lookup does without it.
reader.on('error', (error) => console.error(`nsqjs: ${error}`))
reader.on('message', (message) => {
  const body = message.body.toString()
  bodies.add(body)
  process.stdout.write(`${body}\n`)
  message.finish()
  if (bodies.size === wanted) setTimeout(() => end(0), 200)
})
reader.connect()
