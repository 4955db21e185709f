//! How long the ring's lock is taken for a record, as others have measured it.
//!
//! All are the kernel's own benchmark (`tools/testing/selftests/bpf/benchs/bench_ringbufs.c`, "multi-
//! producer contention"): producers that do nothing but reserve and submit records of eight bytes,
//! and a reader. So the lock is always wanted, and the inverse of the speed is the time that passes
//! from one owner to the next. That is more than our records need: of theirs four share a cache
//! line, and each is offered to the reader with a wake-up.

/// A machine that the benchmark was run on.
#[derive(Debug)]
pub struct Machine {
    pub name: &'static str,
    /// Producers, and millions of records a second of all of them.
    speeds: &'static [(usize, f64)],
    /// Producers from which on they no longer share a cache below the whole chip's: those of a host
    /// lie anywhere, so a lock that nobody waits for takes as long as with so many.
    apart: usize,
}

pub const MACHINES: &[Machine] = &[
    // A. Nakryiko, 2020, with the ring buffer's introduction (commit c97099b0f227).
    Machine {
        name: "xeon-2020",
        speeds: &[
            (2, 4.931),
            (4, 3.926),
            (8, 4.011),
            (12, 3.967),
            (16, 2.604),
            (20, 2.233),
            (24, 2.085),
            (32, 1.962),
            (40, 2.118),
            (52, 2.074),
        ],
        apart: 2,
    },
    // K. K. Dwivedi, 2025, with the change to rqspinlock; Sapphire Rapids.
    Machine {
        name: "xeon-2025",
        speeds: &[
            (2, 2.801),
            (4, 2.567),
            (8, 2.468),
            (12, 2.510),
            (16, 2.075),
            (24, 2.092),
            (32, 2.331),
            (40, 2.178),
            (48, 2.022),
            (52, 1.809),
        ],
        apart: 2,
    },
    // Xu Kuohai, 2025, with the overwrite mode; EPYC 9654: eight cores share a cache.
    Machine {
        name: "epyc-2025",
        speeds: &[
            (2, 15.889),
            (4, 6.708),
            (8, 2.918),
            (12, 2.065),
            (16, 1.870),
            (24, 1.482),
            (32, 1.323),
            (40, 1.236),
            (48, 1.189),
            (52, 1.165),
        ],
        apart: 8,
    },
    // The same on a Kunpeng 920 (arm64): four cores a cluster.
    Machine {
        name: "kunpeng-2025",
        speeds: &[
            (2, 9.993),
            (4, 5.257),
            (8, 3.830),
            (12, 3.528),
            (16, 3.265),
            (24, 2.929),
            (32, 2.818),
            (40, 2.770),
            (48, 2.669),
            (52, 2.695),
        ],
        apart: 8,
    },
];

impl Machine {
    /// Nanoseconds that the lock is taken by one of `present` processors that are at it. Beyond what
    /// was measured it is taken to stay as it was there.
    pub fn hold(&self, present: usize) -> f64 {
        self.measured(present).max(self.measured(self.apart))
    }

    fn measured(&self, producers: usize) -> f64 {
        let time = |place: usize| 1e3 / self.speeds[place].1;
        let after = self
            .speeds
            .iter()
            .position(|(measured, _)| *measured >= producers);
        match after {
            None => time(self.speeds.len() - 1),
            Some(0) => time(0),
            Some(place) => {
                let (low, high) = (self.speeds[place - 1].0, self.speeds[place].0);
                let part = (producers - low) as f64 / (high - low) as f64;
                time(place - 1) + part * (time(place) - time(place - 1))
            }
        }
    }
}
