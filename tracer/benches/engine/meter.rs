//! What is measured with: the bytes that are allocated, the processor time of this thread, what the
//! kernel says of this process's memory, and how long each call took.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rustix::time::{ClockId, clock_gettime};

/// Counts the bytes that are allocated and hands on to the system's allocator.
///
/// Plain loads and stores: a benchmark has one thread, and a locked addition for each allocation
/// would be measured too.
pub struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all is handed on to System unchanged; the count is a side effect.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.store(LIVE.load(Relaxed).wrapping_add(layout.size()), Relaxed);
        // SAFETY: the caller's promise is System's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LIVE.store(LIVE.load(Relaxed).wrapping_add(layout.size()), Relaxed);
        // SAFETY: the caller's promise is System's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.store(LIVE.load(Relaxed).wrapping_sub(layout.size()), Relaxed);
        // SAFETY: the caller's promise is System's.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let live = LIVE.load(Relaxed).wrapping_sub(layout.size());
        LIVE.store(live.wrapping_add(size), Relaxed);
        // SAFETY: the caller's promise is System's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Bytes that are allocated now.
pub fn allocated() -> usize {
    LIVE.load(Relaxed)
}

/// Nanoseconds that this thread has run: what other processes took is left out.
pub fn processor_time() -> u64 {
    read(ClockId::ThreadCPUTime)
}

/// Nanoseconds of the monotonic clock.
pub fn wall_time() -> u64 {
    read(ClockId::Monotonic)
}

fn read(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Bytes of memory that this process holds (`VmRSS`), or has held at most (`VmHWM`).
pub fn resident(field: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is there");
    let kibibytes = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .expect("the kernel tells a process's memory");
    kibibytes.trim().parse::<usize>().expect("a number") * 1024
}

/// A call that took longer than [`Calls::NOTED`].
#[derive(Clone, Copy, Debug)]
pub struct Slow {
    /// How many calls were before it: the same call in every round.
    pub number: u64,
    /// By the monotonic clock, nanoseconds.
    pub wall: u64,
    /// At most so much was this thread's own, nanoseconds.
    pub own: u64,
}

/// How long each call took.
///
/// Processors are taken away from a thread for milliseconds, by other processes and by the host of
/// a virtual machine. So the time of the thread's own is told beside the wall's, and a caller that
/// makes the same calls in several rounds can see which were slow in all of them.
pub struct Calls {
    counts: Vec<u64>,
    total: u64,
    /// The wall's time in all of them, nanoseconds.
    spent: u64,
    slow: Vec<Slow>,
    /// Processor time at the last look at it, and the wall's time in calls since.
    looked: (u64, u64),
}

impl Calls {
    /// Calls that take longer than this are noted one by one, nanoseconds.
    const NOTED: u64 = 50_000;
    /// Processor time is a system call: it is read once in so many calls, and at each slow one.
    const LOOK: u64 = 256;
    /// Classes of durations to each doubling.
    const FINE: u32 = 4;

    pub fn new() -> Self {
        Self {
            counts: vec![0; 64 << Self::FINE],
            total: 0,
            spent: 0,
            slow: Vec::with_capacity(1 << 16),
            looked: (processor_time(), 0),
        }
    }

    /// Makes a call.
    #[inline]
    pub fn time<R>(&mut self, call: impl FnOnce() -> R) -> R {
        if self.total.is_multiple_of(Self::LOOK) {
            self.looked = (processor_time(), 0);
        }
        let began = wall_time();
        let result = call();
        let wall = wall_time() - began;
        self.counts[Self::class(wall)] += 1;
        self.spent += wall;
        if wall > Self::NOTED {
            let (at, others) = self.looked;
            let now = processor_time();
            let own = (now - at).saturating_sub(others).min(wall);
            let number = self.total;
            self.slow.push(Slow { number, wall, own });
            self.looked = (now, 0);
        } else {
            self.looked.1 += wall;
        }
        self.total += 1;
        result
    }

    /// How many were made.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// As many calls that only count as take `nanoseconds`: what this machine alone makes slow.
    pub fn of_nothing(nanoseconds: u64) -> Self {
        let mut calls = Self::new();
        let mut count = 0_u64;
        while calls.spent < nanoseconds {
            calls.time(|| (0..500).for_each(|_| count = black_box(count + 1)));
        }
        calls
    }

    /// The wall's time in all of them, nanoseconds.
    pub fn spent(&self) -> u64 {
        self.spent
    }

    /// How many took longer than `nanoseconds` of the thread's own in a minute of calls.
    pub fn slow_in_a_minute(&self, nanoseconds: u64) -> f64 {
        let slow = self.slow.iter().filter(|slow| slow.own > nanoseconds);
        slow.count() as f64 * 60e9 / self.spent.max(1) as f64
    }

    /// The slow ones, in order.
    pub fn slow(&self) -> &[Slow] {
        &self.slow
    }

    /// The longest, nanoseconds, by `time` of it.
    pub fn longest(&self, time: impl Fn(&Slow) -> u64) -> u64 {
        let noted = self.slow.iter().map(time).max();
        noted.unwrap_or_else(|| self.quantile(1.0).min(Self::NOTED))
    }

    /// Nanoseconds that at most a part `1 - quantile` of the calls exceeds.
    pub fn quantile(&self, quantile: f64) -> u64 {
        let wanted = (self.total as f64 * quantile).ceil() as u64;
        let mut seen = 0;
        let class = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        class.map_or(0, Self::upper_end)
    }

    fn class(nanoseconds: u64) -> usize {
        let doublings = (nanoseconds | 1 << Self::FINE).ilog2() - Self::FINE;
        ((doublings as usize) << Self::FINE) + (nanoseconds >> doublings) as usize
    }

    fn upper_end(class: usize) -> u64 {
        let fine = 1 << Self::FINE;
        if class < 2 * fine {
            return class as u64;
        }
        let doublings = class / fine - 1;
        ((class - doublings * fine + 1) as u64) << doublings
    }
}

/// The longest that a call took in every one of several rounds of the same calls, nanoseconds; 0:
/// none was noted in all of them.
pub fn longest_in_all(rounds: &[Calls]) -> u64 {
    let Some((first, others)) = rounds.split_first() else {
        return 0;
    };
    let least = |slow: &Slow| {
        others.iter().try_fold(slow.own, |least, calls| {
            let place = calls.slow.binary_search_by_key(&slow.number, |s| s.number);
            place.ok().map(|place| least.min(calls.slow[place].own))
        })
    };
    first.slow.iter().filter_map(least).max().unwrap_or(0)
}
