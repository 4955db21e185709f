//! One BPF ring buffer on hosts with many processors: what its lock costs them.
//!
//! ```text
//! cargo bench -p tracer --bench ring
//! cargo bench -p tracer --bench ring -- --processors 128 --rates 100000
//! ```
//!
//! Two parts. A ring in user space with the kernel's steps, one and two threads at it: what this
//! machine can measure. And a simulation of hosts that it is not: its lock takes as long as others
//! have published, its load is that of a host with so many connections a second. SCALE.md tells what
//! follows.

use clap::Parser;

#[expect(dead_code, reason = "each benchmark has units of its own")]
#[path = "../engine/figure.rs"]
mod figure;
mod host;
mod lock;
mod measured;

use figure::Better::{Higher, Lower};
use figure::Unit::{Ms, Ns, PerSecond, Ratio};
use figure::{Better, Figure, Unit};
use host::{Host, Load};
use lock::MACHINES;

/// One ring buffer on hosts with many processors
#[derive(Debug, Parser)]
struct Options {
    /// Processors of the host
    #[arg(long, value_delimiter = ',', default_value = "16,64,128")]
    processors: Vec<usize>,
    /// Connections a second
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "50000,100000,150000,200000"
    )]
    rates: Vec<u64>,
    /// Records of a whole connection: 10 of a client that closes first, 6 of a server that does not
    #[arg(long, default_value_t = 10)]
    records: u64,
    /// TIME_WAITs that there may be (`tcp_max_tw_buckets`, of all network namespaces together)
    #[arg(long, default_value_t = 10_000_000)]
    buckets: u64,
    /// Simulations of each case, and measurements of two threads
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// cargo says so
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let options = Options::parse();
    let figure = |name: String, unit: Unit, better: Better, rounds: Vec<f64>| {
        Figure::new("ring", name, unit, better, rounds).print();
    };
    for threads in [1, 2] {
        let rounds = (0..options.rounds.max(1)).map(|_| measured::records_per_second(threads));
        let name = format!("here/{threads}/records_per_second");
        figure(name, PerSecond, Higher, rounds.collect());
    }
    for machine in MACHINES {
        for &processors in &options.processors {
            let saturated = host::saturated(machine, processors);
            let name = format!("{}/{processors}/saturated", machine.name);
            figure(name, PerSecond, Higher, vec![saturated]);
            for &connections in &options.rates {
                let load = Load {
                    connections,
                    records: options.records,
                    buckets: options.buckets,
                };
                let seeds = 0..options.rounds.max(1) as u64;
                let told: Vec<_> = seeds
                    .map(|seed| Host::new(machine, processors, load, seed).run())
                    .collect();
                let case = format!("{}/{processors}/{connections}", machine.name);
                let each = |name: &str, unit, value: &dyn Fn(&host::Told) -> f64| {
                    let rounds = told.iter().map(value).collect();
                    figure(format!("{case}/{name}"), unit, Lower, rounds);
                };
                each("lock_busy", Ratio, &|told| told.busy);
                each("wait_ns", Ns, &|told| told.wait);
                each("wait_p99_ns", Ns, &|told| told.wait_p99);
                each("processors_spent", Ratio, &|told| told.spent);
                each("expiry_ms", Ms, &|told| told.expiry);
                each("expiry_untraced_ms", Ms, &|told| told.expiry_untraced);
                each("recovery_ms", Ms, &|told| told.recovery);
            }
        }
    }
}
