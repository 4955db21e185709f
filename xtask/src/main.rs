//! The project's own commands: one verb a file, each idempotent.
//!
//! What the verbs say goes to stderr, prefixed with the verb; stdout is the child's.

mod bench;
mod bpf;
mod build;
mod check_deploy;
mod child;
mod demo;
mod dist;
mod lint;
mod root;
mod run;
mod rustc;
mod sample;
mod setup;
mod test;
mod vm;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// The project's own commands
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Fetch and build what the other verbs need, under target/setup
    Setup(setup::Args),
    /// Build the BPF object and the tracer with the object inside
    Build(build::Args),
    /// Set up, build, and run the tracer: cargo xtask run -- watch --json
    Run(run::Args),
    /// Make the incidents that tracer is for, in network namespaces, and show its diagnosis
    Demo(demo::Args),
    /// Set up, build, and run every test; what needs root runs under sudo
    Test(test::Args),
    /// Measure what tracing costs and how soon it tells, beside other tools
    Bench(bench::Args),
    /// Run the tests that trace on Debian's kernels, in an emulator
    Vm(vm::Args),
    /// Check formatting, lints, documentation and dependencies
    Lint(lint::Args),
    /// Build one static binary with the BPF object inside, or a Debian package of it
    Dist(dist::Args),
    /// Check the unit, manifests, dashboard and alerts in tracer/deploy
    CheckDeploy(check_deploy::Args),
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(verb: Verb) -> Result<ExitCode> {
    let workspace = Workspace::find()?;
    match verb {
        Verb::Setup(args) => setup::run(&workspace, &args),
        Verb::Build(args) => build::run(&workspace, &args),
        Verb::Run(args) => run::run(&workspace, &args),
        Verb::Demo(args) => demo::run(&workspace, &args),
        Verb::Test(args) => test::run(&workspace, &args),
        Verb::Bench(args) => bench::run(&workspace, &args),
        Verb::Vm(args) => vm::run(&workspace, &args),
        Verb::Lint(args) => lint::run(&workspace, &args),
        Verb::Dist(args) => dist::run(&workspace, &args),
        Verb::CheckDeploy(args) => check_deploy::run(&workspace, &args),
    }
}
