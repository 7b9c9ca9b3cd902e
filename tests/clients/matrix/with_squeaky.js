// One cell of the client matrix with squeaky. See matrix/README for the arguments and what is to be shown.
'use strict'

const Squeaky = require('squeaky')

const [tcp, http, topic, transport] = process.argv.slice(2)
const [host, port] = tcp.split(':')
const attempts = new Map()
const finished = new Set()

function end(code, text) {
  console.log(text)
  process.exit(code)
}

async function main() {
  const publisher = new Squeaky.Publisher({ host, port: Number(port) })
  for (let i = 0; i < 50; i++) await publisher.publish(topic, `single ${i}`)
  await publisher.publish(topic, Array.from({ length: 50 }, (_, i) => `batch ${i}`))
  const where = transport === 'lookup' ? { lookup: `http://${http}`, discoverFrequency: 1000 } : { host, port: Number(port) }
  const subscriber = new Squeaky.Subscriber({ topic, channel: 'test', concurrency: 20, ...where })
  subscriber.on('error', (error) => end(1, `the subscriber failed: ${error}`))
  subscriber.on('message', (message) => {
    const body = message.body.toString()
    attempts.set(body, (attempts.get(body) || 0) + 1)
    if (body.endsWith('0') && attempts.get(body) === 1) {
      message.requeue(0)
      return
    }
    message.finish()
    finished.add(body)
    if (finished.size === 100) setTimeout(check, 200)
  })
}

function check() {
  const requeued = [...attempts.values()].filter((count) => count === 2).length
  end(requeued === 10 ? 0 : 1, `100 finished, ${requeued} requeued`)
}

setTimeout(() => end(1, `${finished.size} of 100 after 40 s`), 40000)
main().catch((error) => end(1, `publishing failed: ${error}`))
