// BullMQ's part that runs on Node: `enqueue URL COUNT N`, `work URL STAMPS`, `ask URL` (numbers on standard input).
'use strict'
const path = require('path')
const fs = require('fs')
const readline = require('readline')
const { Queue, QueueEvents, Worker } = require(path.join(process.env.BENCHMARK_NODE, 'bullmq'))

const RESULT = 'r'.repeat(64)
const [, , what, url, ...rest] = process.argv
const connection = { host: new URL(url).hostname, port: Number(new URL(url).port), maxRetriesPerRequest: null }

// CLOCK_MONOTONIC, as Python's time.monotonic(), in seconds.
const now = () => Number(process.hrtime.bigint()) / 1e9

async function enqueue (count, n) {
  const queue = new Queue('bench', { connection })
  await queue.waitUntilReady()
  const started = now()
  for (let first = 0; first < count; first += n) {
    if (n === 1) {
      await queue.add('noop', { number: first })
    } else {
      const jobs = []
      for (let number = first; number < Math.min(count, first + n); number++) jobs.push({ name: 'noop', data: { number } })
      await queue.addBulk(jobs)
    }
  }
  console.log(now() - started)
  await queue.close()
}

function work (stamps) {
  const file = fs.openSync(stamps, 'r+')
  const stamp = Buffer.alloc(8)
  const worker = new Worker('bench', async job => {
    stamp.writeDoubleLE(now())
    fs.writeSync(file, stamp, 0, 8, 8 * job.data.number)
    return RESULT
  }, { connection, concurrency: 32 })
  worker.on('error', error => console.error(error))
}

async function ask () {
  const queue = new Queue('bench', { connection })
  const events = new QueueEvents('bench', { connection })
  await events.waitUntilReady()
  console.log('ready')
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const begun = now()
    const job = await queue.add('noop', { number: Number(line) })
    await job.waitUntilFinished(events)
    console.log(begun, now())
  }
  process.exit(0)
}

if (what === 'enqueue') enqueue(Number(rest[0]), Number(rest[1]))
else if (what === 'work') work(rest[0])
else ask()
