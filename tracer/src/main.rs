//! The `tracer` program: parses, runs, and turns the result into an exit code.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use bytes::BytesMut;
use clap::Parser as _;
use tracer::cli::{self, Cli, Command};
use tracer::config::agent::AgentConfig;
use tracer::config::{CheckConfig, DiagnoseConfig, PortsConfig, WatchConfig};
use tracer::output::Terminal;
use tracer::output::diagnosis::{self, Style};
use tracer::{agent, check, daemon, survey};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// The exit code of what could not run, as clap's for a wrong command line.
const COULD_NOT_RUN: u8 = 2;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr();
    match run(cli.command).await {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(io::stderr(), "tracer: {error:#}");
            COULD_NOT_RUN.into()
        }
    }
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Watch(args) => {
            if let Some(summary) = agent::watch(WatchConfig::try_from(args)?).await? {
                // Stderr may be closed by now.
                let _ = writeln!(io::stderr(), "tracer: {summary}");
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Diagnose(args) => {
            let config = DiagnoseConfig::try_from(args)?;
            let style = Style {
                format: config.format,
                verbose: config.verbose,
                terminal: Terminal::stdout(config.color),
            };
            let Some(report) = agent::diagnose(config).await? else {
                return Ok(ExitCode::SUCCESS);
            };
            let mut out = BytesMut::new();
            diagnosis::write(&report, &style, &mut out);
            print(&out)?;
            Ok(report.exit_code().into())
        }
        Command::Ports(args) => {
            let config = PortsConfig::try_from(args)?;
            let report = survey::ports(&config.filter).await?;
            for line in report.complaints() {
                let _ = writeln!(io::stderr(), "tracer: {line}");
            }
            let mut out = BytesMut::new();
            let terminal = Terminal::stdout(config.color);
            report.write(config.format, &terminal, config.all, &mut out);
            print(&out)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Agent(args) => {
            if args.print_config {
                print(AgentConfig::TEMPLATE.as_bytes())?;
                return Ok(ExitCode::SUCCESS);
            }
            let config = AgentConfig::load(&args)?;
            if args.check_config {
                let said = match &config.file {
                    Some(file) => format!("{} is right\n", file.display()),
                    None => "there is no configuration file; the defaults hold\n".to_owned(),
                };
                print(said.as_bytes())?;
                return Ok(ExitCode::SUCCESS);
            }
            if let Some(summary) = daemon::run(config, args).await? {
                let _ = writeln!(io::stderr(), "tracer: {summary}");
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Check(args) => {
            let config = CheckConfig::from(args);
            let report = check::check(config).await?;
            let mut out = BytesMut::new();
            report.write(config.format, &mut out);
            print(&out)?;
            Ok(report.verdict.exit_code().into())
        }
        Command::Completions { shell } => {
            let mut out = Vec::new();
            cli::completions(shell, &mut out);
            print(&out)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { command } => {
            let mut out = Vec::new();
            cli::man(command.as_deref(), &mut out)?;
            print(&out)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Writes to stdout; a closed pipe is a quiet end.
fn print(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Our own log: warnings to stderr, more of it through `TRACER_LOG`.
fn log_to_stderr() {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::WARN.into())
        .with_env_var("TRACER_LOG")
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .without_time()
        .init();
}
