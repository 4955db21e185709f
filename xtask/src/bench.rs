//! `cargo xtask bench`: what tracing costs, how soon it tells, beside the tools that users have.
//!
//! The file of results keeps the last run of each sub-verb. A figure's spread is its quartiles; the
//! engine's figures bring the least and the greatest of their rounds along.

mod compare;
mod contenders;
mod engine;
mod figure;
mod hands;
mod kernel;
mod latency;
mod machine;
mod overhead;
mod page;
mod quoted;
mod rounds;
mod statistics;
mod targets;

use std::{
    fmt::Display,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;

use self::{
    compare::Comparison,
    contenders::Contenders,
    figure::{Figure, Results, SCHEMA},
    hands::Hands,
};
use crate::{
    build,
    child::{self, Stopwatch},
    root, setup,
    workspace::Workspace,
};

/// What `cargo xtask bench` is asked for.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// Fail where a ratio of tracer's is worse by more than a tenth than in this file of results
    #[arg(long, global = true, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Where to keep the results [default: tracer/benches/results.json]
    #[arg(long, global = true, value_name = "FILE")]
    out: Option<PathBuf>,
    /// How often each is measured
    #[arg(long, global = true, default_value_t = 7, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long each load lasts
    #[arg(long, global = true, default_value_t = 5, value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum What {
    /// What tracing takes from a load, beside other tools
    Overhead,
    /// How soon an event is told; start, memory and processor time of an idle tracer
    Latency,
    /// The benchmark of the engine, which traces nothing
    Engine,
    /// Print the table that README quotes
    Table {
        /// The results [default: tracer/benches/results.json]
        file: Option<PathBuf>,
        /// Put it into README
        #[arg(long)]
        write: bool,
    },
}

const OVERHEAD: &str = "overhead";
const LATENCY: &str = "latency";
const ENGINE: &str = "engine";

/// Measures, prints, keeps, compares.
pub fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let kept = kept(&workspace.root);
    let benches: &[&str] = match &args.what {
        Some(What::Table { file, write }) => {
            let table = page::table(&Results::read(file.as_deref().unwrap_or(&kept))?);
            if *write {
                quoted::write(&workspace.root.join("README.md"), &table)?;
            }
            print!("{table}");
            return Ok(ExitCode::SUCCESS);
        }
        Some(What::Overhead) => &[OVERHEAD],
        Some(What::Latency) => &[LATENCY],
        Some(What::Engine) => &[ENGINE],
        None => &[OVERHEAD, LATENCY, ENGINE],
    };
    // Before hours of measuring: whether there is something to compare with.
    let against = args.against.as_deref().map(Results::read).transpose()?;
    let watch = Stopwatch::start();
    let out = args.out.clone().unwrap_or(kept);
    let mut now = Results {
        schema: SCHEMA,
        machine: machine::describe(workspace)?,
        figures: Vec::new(),
    };
    let mut sound = true;
    for (place, bench) in benches.iter().enumerate() {
        let mut figures = match *bench {
            ENGINE => {
                let run = engine::run(workspace)?;
                sound &= run.succeeded;
                run.figures
            }
            bench => measure(workspace, args, bench)?,
        };
        targets::set(&mut figures);
        now.figures.extend(figures);
        // What has been measured stays, whatever becomes of the rest.
        keep(&now, &benches[..=place], &out)?;
    }
    print!("{}", page::whole(&now));
    say(format_args!(
        "{} figures in {} ({:.0} s)",
        now.figures.len(),
        out.display(),
        watch.elapsed().as_secs_f32()
    ));
    if let Some(before) = against {
        sound &= judge(&Comparison::of(&before, &now, benches));
    }
    Ok(if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The file of results in the repository.
fn kept(root: &Path) -> PathBuf {
    root.join("tracer/benches/results.json")
}

/// What needs root, nginx and wrk.
fn measure(workspace: &Workspace, args: &Args, bench: &str) -> Result<Vec<Figure>> {
    let tracer = build::tracer(workspace, true)?;
    let program = build::example(workspace, "load")?;
    let path = child::path_with(&setup::tests(workspace)?);
    let contenders = match bench {
        OVERHEAD => {
            let probes = build::example(workspace, "probes")?;
            Some(Contenders::find(workspace, &tracer, &probes)?)
        }
        _ => None,
    };
    let root = root::ask("bench", "tracing, and making network namespaces,")?;
    let mut hands = Hands::start(workspace, root, &program, path)?;
    let figures = match contenders {
        Some(contenders) => {
            let mut figures = overhead::run(&mut hands, &contenders, args)?;
            figures.extend(kernel::run(&mut hands, &contenders, args)?);
            figures
        }
        None => latency::run(&mut hands, &tracer, args)?,
    };
    hands.end()?;
    Ok(figures)
}

/// Writes the results of `benches`; what other ones have left in the file stays.
fn keep(now: &Results, benches: &[&str], out: &Path) -> Result<()> {
    let mut all = now.clone();
    if out.exists() {
        let others = Results::read(out)?.figures.into_iter();
        all.figures
            .extend(others.filter(|figure| !benches.contains(&figure.bench.as_str())));
    }
    let place = |figure: &Figure| {
        [OVERHEAD, LATENCY, ENGINE]
            .iter()
            .position(|bench| *bench == figure.bench)
            .unwrap_or(usize::MAX)
    };
    all.figures.sort_by_key(place);
    all.write(out)
}

/// Says what has become worse; whether nothing has.
fn judge(comparison: &Comparison) -> bool {
    for name in &comparison.missing {
        say(format_args!("not measured this time: {name}"));
    }
    for worse in &comparison.worse {
        say(format_args!("worse by more than a tenth: {worse}"));
    }
    if comparison.worse.is_empty() {
        say("no ratio is worse by more than a tenth");
    }
    comparison.worse.is_empty()
}

fn say(what: impl Display) {
    eprintln!("bench: {what}");
}
