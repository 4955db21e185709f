//! Decoding and the engine alone: how fast, how much memory, how long a single call.
//!
//! ```text
//! cargo bench -p tracer --bench engine
//! cargo bench -p tracer --bench engine -- --sizes 10000000 --only speed,memory
//! ```
//!
//! One thread. Whole lives of clients and servers, half and half, half of them IPv6; each opener's
//! thread has a name of its own. Times are of the thread's own (CLOCK_THREAD_CPUTIME_ID), and of
//! decoding and the engine only: the records are made beforehand, a batch at a time, and what comes
//! out is looked at and dropped. Each pass runs in a process of its own.
//!
//! - `transitions_per_second`: state changes of the kernel, which are the records of transitions and
//!   of closes; a life has five, and 10 records (client) or 6 (server). Half of the connections wait
//!   in TIME_WAIT, the others are drawn at random.
//! - `transitions_per_lookup`: the same over the lookups a second in a map of as many numbers, to
//!   compare machines by.
//! - `…_bytes`: what is allocated a connection, the engine's indices and memories included;
//!   `…_resident_bytes`: what the kernel gave for it.
//! - `longest_call`: of handle_event(), handle_timeout() and poll(), the part that was this thread's
//!   own; `longest_call_wall`: all of it. A host that takes processors away shows in both:
//!   `longest_call_in_all_rounds` is the longest that a call took in every round, which leaves out
//!   what falls on another call each time, such as the growth of a map with seeds of its own.
//! - `burst/…`: all TIME_WAITs end together; `overdue/…`: their ends were lost.
//! - `bound/…`: half of the connections are followed, so that one is let go for each that comes. Only
//!   where it is asked for.

use std::env;
use std::process::{Command, ExitCode};

use clap::{Parser, ValueEnum};

#[expect(dead_code, reason = "each benchmark has units of its own")]
mod figure;
mod meter;
mod passes;
mod subject;
mod traffic;
mod wire;

use passes::Size;

#[global_allocator]
static ALLOCATOR: meter::Counting = meter::Counting;

/// Decoding and the engine alone
#[derive(Debug, Parser)]
struct Options {
    /// Connections that live at once; ten millions want gigabytes of memory
    #[arg(long, value_delimiter = ',', default_value = "10000,1000000")]
    sizes: Vec<usize>,
    /// What is measured
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "speed,memory,calls,burst"
    )]
    only: Vec<Topic>,
    /// Rounds of each pass; those of calls and bursts begin from nothing each time
    #[arg(long)]
    rounds: Option<usize>,
    /// A quick look: fewer rounds, and shorter ones
    #[arg(long)]
    quick: bool,
    /// Only this pass, in this process
    #[arg(long, hide = true)]
    pass: Option<Pass>,
    /// cargo says so
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Topic {
    Speed,
    Memory,
    Calls,
    Burst,
    Bound,
}

impl Topic {
    fn passes(self) -> &'static [Pass] {
        match self {
            Self::Speed => &[Pass::Speed],
            Self::Memory => &[Pass::Memory, Pass::Servers],
            Self::Calls => &[Pass::Calls],
            Self::Burst => &[Pass::Burst, Pass::Overdue],
            Self::Bound => &[Pass::Bound],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Pass {
    Speed,
    Memory,
    Servers,
    Calls,
    Burst,
    Overdue,
    Bound,
}

impl Pass {
    fn run(self, size: Size) {
        match self {
            Self::Speed => passes::speed(size),
            Self::Memory => passes::memory(size),
            Self::Servers => passes::servers(size),
            Self::Calls => passes::calls(size),
            Self::Burst => passes::burst(size),
            Self::Overdue => passes::overdue(size),
            Self::Bound => passes::bound(size),
        }
    }

    /// Rounds that begin from nothing take long.
    fn rounds(self, quick: bool) -> usize {
        match self {
            Self::Speed if quick => 3,
            Self::Speed => 5,
            _ if quick => 1,
            _ => 3,
        }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let Some(pass) = options.pass else {
        return all(&options);
    };
    for live in &options.sizes {
        let records = (*live as u64).clamp(1_000_000, 5_000_000);
        pass.run(Size {
            live: *live,
            rounds: options.rounds.unwrap_or(pass.rounds(options.quick)).max(1),
            records: if options.quick { records } else { 2 * records },
        });
    }
    ExitCode::SUCCESS
}

/// Each pass at each size in a process of its own.
fn all(options: &Options) -> ExitCode {
    let program = env::current_exe().expect("a process knows its program");
    for live in &options.sizes {
        for pass in options.only.iter().flat_map(|topic| topic.passes()) {
            let name = pass.to_possible_value().expect("a pass has a name");
            eprintln!("{live} connections: {}", name.get_name());
            let mut command = Command::new(&program);
            command.args(["--pass", name.get_name(), "--sizes", &live.to_string()]);
            if options.quick {
                command.arg("--quick");
            }
            if let Some(rounds) = options.rounds {
                command.args(["--rounds", &rounds.to_string()]);
            }
            let status = command.status().expect("this program can be run again");
            if !status.success() {
                eprintln!("{live} connections: {} failed: {status}", name.get_name());
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
