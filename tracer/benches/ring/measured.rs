//! The ring of the kernel's in user space, as far as its lock goes: a ticket lock around the two
//! positions, a header written under it, a record filled and submitted after it. There is no reader:
//! the ring runs over.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};
use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Bytes of the ring, and of a record with its header: the mean of a connection's.
const RING: usize = 1 << 20;
const RECORD: usize = 112;
const WORDS: usize = RECORD / 8;
/// How long a look lasts. Processors are taken away for longer: the best of some looks counts.
const LOOK: Duration = Duration::from_millis(20);
const LOOKS: usize = 15;

#[repr(align(128))]
#[derive(Default)]
struct Apart<T>(T);

#[derive(Default)]
struct Lock {
    next: AtomicU32,
    served: AtomicU32,
}

struct Ring {
    lock: Apart<Lock>,
    consumer: Apart<AtomicU64>,
    producer: Apart<AtomicU64>,
    words: Vec<AtomicU64>,
    stop: AtomicBool,
}

/// Records a second of `threads` that do nothing else.
pub fn records_per_second(threads: usize) -> f64 {
    let ring = Ring {
        lock: Apart::default(),
        consumer: Apart::default(),
        producer: Apart::default(),
        words: (0..RING / 8).map(|_| AtomicU64::new(0)).collect(),
        stop: AtomicBool::new(false),
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !ring.stop.load(Relaxed) {
                    ring.put();
                }
            });
        }
        let best = (0..LOOKS)
            .map(|_| {
                let (before, began) = (ring.producer.0.load(Relaxed), seconds());
                thread::sleep(LOOK);
                let made = (ring.producer.0.load(Relaxed) - before) as f64 / RECORD as f64;
                made / (seconds() - began)
            })
            .fold(0.0, f64::max);
        ring.stop.store(true, Relaxed);
        best
    })
}

impl Ring {
    fn put(&self) {
        let ticket = self.lock.0.next.fetch_add(1, Relaxed);
        while self.lock.0.served.load(Acquire) != ticket {
            spin_loop();
        }
        let consumer = self.consumer.0.load(Relaxed);
        let place = self.producer.0.load(Relaxed);
        let header = &self.words[Self::word(place)];
        header.store(RECORD as u64 | consumer | 1 << 31, Relaxed);
        self.producer.0.store(place + RECORD as u64, Release);
        self.lock.0.served.store(ticket.wrapping_add(1), Release);
        for word in 1..WORDS {
            self.words[Self::word(place + 8 * word as u64)].store(place, Relaxed);
        }
        header.swap(RECORD as u64, SeqCst);
    }

    fn word(place: u64) -> usize {
        place as usize % RING / 8
    }
}

fn seconds() -> f64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}
