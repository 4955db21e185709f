//! Loads the BPF object, attaches each program by itself, says what is lost with those that are
//! refused, and keeps the kernel side's accounts.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ScopedJoinHandle};

use aya::maps::{Array, MapData, MapError, PerCpuArray};
use aya::programs::links::FdLink;
use aya::programs::trace_point::{TracePointError, TracePointLinkId};
use aya::programs::{Program, ProgramError, TracePoint};
use aya::{Btf, Ebpf, EbpfError, EbpfLoader};
use aya_log::EbpfLogger;
use log::Log;
use tracer_common::event::{Account, Hook, Kind};

use crate::btf::{BtfError, KernelBtf, Layout, VMLINUX};

use crate::handler::{self, HandlerError};
use crate::kallsyms;
use crate::object::{self, ObjectError};
use crate::stream::{ProbeReport, ProbeState};

mod account;
mod table;
mod tracefs;

pub use table::{
    CALL_PROBES, Dispensable, Indispensable, RESET_PROBES, SCHEDULE_PROBE, SEGMENT_PROBE,
    TIMER_PROBES, only_adds_precision, tells_calls,
};
use table::{CALLS, PROBES, Probe, REQUIRED, Role, Target};

/// Why tracing cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Privileges are missing.
    #[error(
        "not permitted to load BPF programs: run as root, or with CAP_BPF, CAP_PERFMON and CAP_SYSLOG"
    )]
    NotPermitted,
    /// This program was built without its BPF object.
    #[error("this tracer was built without its BPF programs: build it with `cargo xtask build`")]
    NoObject,
    /// The object does not fit the kernel.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The kernel's layout could not be had.
    #[error(
        "cannot tell where this kernel keeps its fields; a kernel with CONFIG_DEBUG_INFO_BTF=y is needed"
    )]
    Btf(#[from] BtfError),
    /// The kernel's BTF could not be parsed for loading.
    #[error("failed to parse the kernel's BTF")]
    ParseBtf(#[from] aya_btf::BtfError),
    /// The object's maps could not be made.
    #[error("failed to load the BPF object")]
    Load(#[source] EbpfError),
    /// The object lacks a map that it should have.
    #[error("the BPF object has no map {0}: it is of another version")]
    NoMap(&'static str),
    /// A map could not be used.
    #[error("failed to open the BPF map {name}")]
    Map {
        /// Its name.
        name: &'static str,
        /// Why.
        source: MapError,
    },
    /// The one probe that nothing works without.
    #[error("failed to attach {program} to {hook}, without which nothing can be traced: {reason}")]
    Required {
        /// The program.
        program: &'static str,
        /// The tracepoint.
        hook: &'static str,
        /// Why.
        reason: String,
    },
}

use aya_obj::btf as aya_btf;

/// How to load.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// The BPF object.
    pub object: Option<&'a [u8]>,
    /// Bytes of the ring buffer: a power of two and a multiple of the page size.
    pub buffer_bytes: u32,
    /// The kernel's BTF: [`VMLINUX`], or another place to simulate a kernel without.
    pub btf: &'a Path,
    /// The kernel's symbols: [`kallsyms::KALLSYMS`].
    pub kallsyms: &'a Path,
    /// Probes to leave out. A second program on a hook never runs without its first.
    pub without: &'a [Dispensable],
    /// Whether failed system calls are told too.
    ///
    /// As soon as anybody watches a tracepoint of system calls, every system call of every task
    /// takes a slower way through the kernel. A getppid() of 83 ns then takes 7 ns more (6.18,
    /// two virtual processors; the live test of it prints both).
    pub calls: bool,
}

impl<'a> Settings<'a> {
    /// Why the user does not want a probe to run.
    fn leave_out(&self, probe: &Probe) -> Option<String> {
        let is_left_out = |name| self.without.contains(&Dispensable(name));
        let first = match probe.role {
            Role::Second(hook) => PROBES
                .iter()
                .find(|first| first.role == Role::First(hook))
                .map(|first| first.name),
            _ => None,
        };
        (is_left_out(probe.name) || first.is_some_and(is_left_out))
            .then(|| "left out by --without".to_owned())
    }

    /// Settings for the running kernel.
    #[must_use]
    pub fn new(object: Option<&'a [u8]>, buffer_bytes: u32) -> Self {
        Self {
            object,
            buffer_bytes,
            btf: Path::new(VMLINUX),
            kallsyms: Path::new(kallsyms::KALLSYMS),
            without: &[],
            calls: false,
        }
    }
}

/// The loaded object and its attached programs. They are detached when this is dropped.
pub struct Probes {
    ebpf: Ebpf,
    account: PerCpuArray<MapData, Account>,
    reports: Vec<ProbeReport>,
    links: Vec<(&'static str, Link)>,
    log: Option<EbpfLogger<&'static dyn Log>>,
}

/// What holds a program where it is attached.
enum Link {
    /// The program runs while this is open.
    Held(FdLink),
    Call(TracePointLinkId),
}

/// What the reader needs of the kernel side.
pub struct Ring {
    /// The ring buffer.
    pub events: MapData,
    /// 1 while the reader sleeps.
    pub parked: Array<MapData, u32>,
    /// One [`Losses`](tracer_common::event::Losses), which can be mapped.
    pub losses: MapData,
}

impl Probes {
    /// Loads the object and attaches what the kernel accepts.
    ///
    /// # Errors
    /// Where nothing can be traced: no privileges, no BTF, no `inet_sock_set_state`.
    pub fn attach(settings: &Settings<'_>) -> Result<(Self, Ring), ProbeError> {
        let object = settings.object.ok_or(ProbeError::NoObject)?;
        // Each takes tens of milliseconds.
        let (kernel, btf, symbol) = thread::scope(|scope| {
            let btf = scope.spawn(|| Btf::parse_file(settings.btf, aya::Endianness::default()));
            let symbol = scope.spawn(|| handler::symbol(settings.kallsyms));
            let kernel = KernelBtf::from_file(settings.btf);
            (kernel, join(btf), join(symbol))
        });
        let kernel = kernel?;
        let layout = kernel.layout()?;
        let btf = btf?;
        let handler = handler::address(symbol, object, &btf, &layout);
        let send_reset_arguments = kernel.tracepoint_arguments("tcp_send_reset").unwrap_or(0);
        let constants = Constants {
            layout,
            handler: *handler.as_ref().unwrap_or(&0),
            send_reset_arguments: send_reset_arguments as u32,
        };
        let mut ebpf = load(object, &btf, settings.buffer_bytes, &constants)?;
        // Whether each is wanted, in the order of attaching.
        let asked_for: Vec<(&Probe, Option<String>)> = PROBES
            .iter()
            .filter(|probe| settings.calls || probe.role != Role::Call)
            .map(|probe| {
                let left_out = settings.leave_out(probe);
                let refusal = left_out.or_else(|| refusal(probe, &kernel, &layout, &handler));
                (probe, refusal)
            })
            .collect();
        let wanted = asked_for.iter().filter(|(_, refusal)| refusal.is_none());
        let wanted: Vec<&Probe> = wanted.map(|(probe, _)| *probe).collect();
        let mut loaded = load_programs(&mut ebpf, &btf, &wanted);
        let mut reports = Vec::with_capacity(PROBES.len());
        let mut links = Vec::with_capacity(PROBES.len());
        for (probe, refusal) in asked_for {
            let attached = match refusal.or_else(|| without_first(probe, &reports)) {
                Some(reason) => Err(reason),
                None => match loaded.remove(probe.name) {
                    Some(Err(reason)) => Err(reason),
                    Some(Ok(())) => attach(&mut ebpf, probe),
                    None => Err("the BPF object lacks it: it is of another version".to_owned()),
                },
            };
            let state = match attached {
                Ok(link) => {
                    links.push((probe.name, link));
                    ProbeState::Attached
                }
                Err(reason) => ProbeState::Refused(reason),
            };
            if probe.role == REQUIRED
                && let ProbeState::Refused(reason) = state
            {
                return Err(ProbeError::Required {
                    program: probe.name,
                    hook: probe.target.name(),
                    reason,
                });
            }
            reports.push(ProbeReport {
                name: probe.name,
                hook: probe.target.name(),
                state,
                purpose: probe.purpose,
            });
        }
        let ring = Ring {
            events: match ebpf.take_map("EVENTS") {
                Some(aya::maps::Map::RingBuf(events)) => events,
                _ => return Err(ProbeError::NoMap("EVENTS")),
            },
            parked: take(&mut ebpf, "PARKED")?,
            losses: match ebpf.take_map("LOSSES") {
                Some(aya::maps::Map::Array(losses)) => losses,
                _ => return Err(ProbeError::NoMap("LOSSES")),
            },
        };
        let account = take(&mut ebpf, "ACCOUNT")?;
        let log = logger(&mut ebpf);
        Ok((
            Self {
                ebpf,
                account,
                reports,
                links,
                log,
            },
            ring,
        ))
    }

    /// Every probe and its state, in the order of attaching.
    #[must_use]
    pub fn reports(&self) -> &[ProbeReport] {
        &self.reports
    }

    /// Detaches every program: but for one that is running, no event comes after this. The accounts
    /// can still be read.
    ///
    /// The last attached goes first: a second program without its first would take every event for
    /// one that was missed.
    pub fn detach(&mut self) {
        for (name, link) in self.links.drain(..).rev() {
            let detached = match (self.ebpf.program_mut(name), link) {
                (_, Link::Held(link)) => {
                    if link.info().is_err() {
                        // Somebody else has closed it: by now its number may be another's.
                        std::mem::forget(link);
                    }
                    Ok(())
                }
                (Some(Program::TracePoint(program)), Link::Call(link)) => program.detach(link),
                _ => Ok(()),
            };
            if let Err(error) = detached {
                tracing::warn!("failed to detach {name}: {error}");
            }
        }
    }

    /// The programs whose links the kernel does not know any more. It takes none away while its
    /// descriptor is open (BPF_LINK_DETACH is not for links of these kinds), so somebody has closed
    /// that. Links to system calls may be none of BPF's and are not asked for.
    #[must_use]
    pub fn gone(&self) -> Vec<&'static str> {
        let is_gone = |link: &Link| matches!(link, Link::Held(link) if link.info().is_err());
        let gone = self.links.iter().filter(|(_, link)| is_gone(link));
        gone.map(|(name, _)| *name).collect()
    }

    /// Passes on what the programs have logged.
    pub fn flush_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }
}

/// The system calls that lead to SOCK_DESTROY. (Those of 32-bit programs have other numbers.)
const SEND_CALLS: [u32; 2] = [libc::SYS_sendto as u32, libc::SYS_sendmsg as u32];

/// What is written into the object's instructions and its .rodata.
struct Constants {
    layout: Layout,
    handler: u64,
    send_reset_arguments: u32,
}

fn load(
    object: &[u8],
    btf: &Btf,
    buffer_bytes: u32,
    constants: &Constants,
) -> Result<Ebpf, ProbeError> {
    let level = log_level();
    let object = object::for_kernel(object, &constants.layout.offsets, constants.handler)?;
    EbpfLoader::new()
        .btf(Some(btf))
        .override_global("REPAIR_MASK", &constants.layout.repair_mask, true)
        .override_global("TIMESTAMPS_MASK", &constants.layout.timestamps_mask, true)
        .override_global("PORT_LOCK_MASK", &constants.layout.port_lock_mask, true)
        .override_global(
            "RUN_QUEUE_TO_PREEMPT_COUNT",
            &constants.layout.run_queue_to_preempt_count,
            true,
        )
        .override_global("SEND_CALLS", &SEND_CALLS, true)
        .override_global(
            "SEND_RESET_ARGUMENTS",
            &constants.send_reset_arguments,
            true,
        )
        .override_global(aya_log::LEVEL, &level, false)
        .map_max_entries("EVENTS", buffer_bytes)
        .load(&object)
        .map_err(|error| {
            if is_refusal(&error) {
                ProbeError::NotPermitted
            } else {
                ProbeError::Load(error)
            }
        })
}

/// The level of the programs' own log. Off, the verifier drops what would write it; it is on where
/// our log is at debug (TRACER_LOG=debug).
fn log_level() -> u8 {
    if tracing::enabled!(tracing::Level::DEBUG) {
        aya_log::Level::Debug as u8
    } else {
        0
    }
}

/// The programs' own log, where it is on.
fn logger(ebpf: &mut Ebpf) -> Option<EbpfLogger<&'static dyn Log>> {
    if log_level() == 0 {
        return None;
    }
    EbpfLogger::init(ebpf)
        .inspect_err(|error| tracing::debug!("the programs' own log cannot be read: {error}"))
        .ok()
}

/// Why a second program goes the way of its first, without which it would take every event for one
/// that was missed.
fn without_first(probe: &Probe, before: &[ProbeReport]) -> Option<String> {
    let Role::Second(hook) = probe.role else {
        return None;
    };
    let first = PROBES
        .iter()
        .find(|first| first.role == Role::First(hook))?;
    let first = before.iter().find(|report| report.name == first.name)?;
    match &first.state {
        ProbeState::Attached => None,
        ProbeState::Refused(reason) => Some(reason.clone()),
    }
}

/// Why not to try at all.
fn refusal(
    probe: &Probe,
    kernel: &KernelBtf,
    layout: &Layout,
    handler: &Result<u64, HandlerError>,
) -> Option<String> {
    let hook = match probe.target {
        Target::Tracepoint(hook) => hook,
        Target::Exit {
            function,
            parameters,
        } => {
            return (!kernel.has_function(function, parameters)).then(|| {
                let parameters = parameters.join(", ");
                format!("this kernel has no function {function}({parameters})")
            });
        }
        Target::Call(_) => {
            return (!layout.offsets.lead_from_call_to_socket()).then(|| {
                "this kernel does not tell the way from a system call to its socket".to_owned()
            });
        }
    };
    match (probe.role, kernel.tracepoint_arguments(hook)) {
        (_, None) => Some(format!("this kernel has no tracepoint {hook}")),
        (Role::First(Hook::Segment) | Role::Second(Hook::Segment), Some(..4)) => {
            Some("kfree_skb does not tell the receiving socket before Linux 6.11".to_owned())
        }
        (Role::Alone, _) => handler.as_ref().err().map(ToString::to_string),
        _ => None,
    }
}

/// Loads the programs of the probes, several at once: the verifier takes its time for each, in the
/// thread that asks. Why it refused one is told under its name.
fn load_programs(
    ebpf: &mut Ebpf,
    btf: &Btf,
    wanted: &[&Probe],
) -> HashMap<&'static str, Result<(), String>> {
    let mut programs: Vec<(&Probe, &mut Program)> = ebpf
        .programs_mut()
        .filter_map(|(name, program)| {
            let probe = wanted.iter().find(|probe| probe.name == name)?;
            Some((*probe, program))
        })
        .collect();
    // The longest last, where the threads begin.
    programs.sort_by_key(|(probe, _)| probe.role == REQUIRED);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.min(programs.len());
    let programs = Mutex::new(programs);
    let next = || {
        programs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
    };
    let work = || {
        let mut loaded = Vec::new();
        while let Some((probe, program)) = next() {
            loaded.push((probe.name, load_program(probe, program, btf)));
        }
        loaded
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut loaded = work();
        loaded.extend(others.into_iter().flat_map(join));
        loaded.into_iter().collect()
    })
}

/// What the thread has made; its panic is ours.
fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn load_program(probe: &Probe, program: &mut Program, btf: &Btf) -> Result<(), String> {
    let loaded = match (probe.target, program) {
        (Target::Tracepoint(hook), Program::BtfTracePoint(program)) => program.load(hook, btf),
        (Target::Exit { function, .. }, Program::FExit(program)) => program.load(function, btf),
        (Target::Call(_), Program::TracePoint(program)) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    loaded.map_err(|error| match (probe.target, error) {
        // Tracepoints' programs were let in: it is not for want of privileges.
        (Target::Exit { .. }, ProgramError::LoadError { io_error, .. })
            if io_error.kind() == io::ErrorKind::PermissionDenied =>
        {
            "this host permits no fexit programs".to_owned()
        }
        (_, error) => one_line(&error),
    })
}

fn attach(ebpf: &mut Ebpf, probe: &Probe) -> Result<Link, String> {
    let program = ebpf
        .program_mut(probe.name)
        .ok_or_else(|| "the BPF object lacks it: it is of another version".to_owned())?;
    let attached = match (probe.target, program) {
        (Target::Tracepoint(_), Program::BtfTracePoint(program)) => {
            let link = program.attach().and_then(|id| program.take_link(id));
            link.map(|link| Link::Held(link.into()))
        }
        (Target::Exit { .. }, Program::FExit(program)) => {
            let link = program.attach().and_then(|id| program.take_link(id));
            link.map(|link| Link::Held(link.into()))
        }
        (Target::Call(name), Program::TracePoint(program)) => {
            return tracefs::with(|| attach_to_call(program, name))?;
        }
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    attached.map_err(|error| one_line(&error))
}

fn attach_to_call(program: &mut TracePoint, name: &str) -> Result<Link, String> {
    let attached = program.attach(CALLS, name).map(Link::Call);
    attached.map_err(|error| match error {
        ProgramError::TracePointError(TracePointError::FileError { io_error, .. })
            if io_error.kind() == io::ErrorKind::NotFound =>
        {
            format!("this kernel has no tracepoint {name} (CONFIG_FTRACE_SYSCALLS)")
        }
        error => one_line(&error),
    })
}

/// The error without the verifier's log, which goes to our own log.
fn one_line(error: &ProgramError) -> String {
    tracing::debug!("{error}");
    match error {
        ProgramError::LoadError { io_error, .. } => format!("the verifier refuses it: {io_error}"),
        ProgramError::SyscallError(error) => format!("{}: {}", error.call, error.io_error),
        other => other
            .to_string()
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned(),
    }
}

fn take<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, ProbeError>
where
    M: TryFrom<aya::maps::Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(ProbeError::NoMap(name))?;
    M::try_from(map).map_err(|source| ProbeError::Map { name, source })
}

fn is_refusal(error: &EbpfError) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.kind() == io::ErrorKind::PermissionDenied;
        }
        source = error.source();
    }
    false
}

const _: () = assert!(Kind::COUNT == 12 && Hook::COUNT == 4);

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(name: &str) -> &'static Probe {
        let mut probes = PROBES.iter();
        probes.find(|probe| probe.name == name).expect("a probe")
    }

    fn report(name: &str, state: ProbeState) -> ProbeReport {
        let Probe {
            name,
            target,
            purpose,
            ..
        } = probe(name);
        ProbeReport {
            name,
            hook: target.name(),
            state,
            purpose,
        }
    }

    #[test]
    fn a_second_program_goes_the_way_of_its_first() {
        let without = ["free_segment".parse().expect("a probe")];
        let settings = Settings {
            without: &without,
            ..Settings::new(None, 4096)
        };
        let reason = settings.leave_out(probe("free_segment"));
        assert!(reason.is_some());
        let second = probe("free_segment_2");
        assert_eq!(settings.leave_out(second), reason);
        assert_eq!(settings.leave_out(probe("send_reset_2")), None);
        let refused = ProbeState::Refused("why".to_owned());
        let reports = [report("free_segment", refused)];
        assert_eq!(without_first(second, &reports).as_deref(), Some("why"));
        let reports = [report("free_segment", ProbeState::Attached)];
        assert_eq!(without_first(second, &reports), None);
    }
}
