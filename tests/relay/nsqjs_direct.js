// Consumes a topic with nsqjs, which is told nothing but the addresses of some nodes.
// Arguments: addresses with commas between them, topic, channel. Prints one finished message a line, until it is
// killed.
'use strict'

const { Reader } = require('nsqjs')

const [addresses, topic, channel] = process.argv.slice(2)
const reader = new Reader(topic, channel, {
  nsqdTCPAddresses: addresses.split(','), lookupdPollInterval: 1, lookupdPollJitter: 0.01, maxInFlight: 50,
  heartbeatInterval: 1, maxBackoffDuration: 0,
})
// A node that was killed is an error here; it is tried again.
reader.on('error', (error) => console.error(`nsqjs: ${error}`))
reader.on('message', (message) => {
  process.stdout.write(`${message.body}\n`)
  message.finish()
})
reader.connect()
