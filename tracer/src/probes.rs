//! Loads the BPF object, attaches each program by itself, says what is lost with those that are
//! refused, and keeps the kernel side's accounts.

use std::io;
use std::path::Path;

use aya::maps::{Array, MapData, MapError, PerCpuArray, RingBuf};
use aya::programs::tp_btf::BtfTracePointLinkId;
use aya::programs::{BtfTracePoint, Program, ProgramError};
use aya::{Btf, Ebpf, EbpfError, EbpfLoader};
use aya_log::EbpfLogger;
use log::Log;
use tracer_common::event::{Account, Hook, Kind};

use crate::btf::{BtfError, KernelBtf, Layout, VMLINUX};
use crate::clock;
use crate::fdinfo::{self, ProgramStatistics};
use crate::handler::{self, HandlerError};
use crate::kallsyms;
use crate::stream::{AccountReading, ProbeReport, ProbeState};

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

/// One program of the object.
struct Probe {
    name: &'static str,
    hook: &'static str,
    role: Role,
    purpose: &'static str,
}

/// How a program takes part in its hook.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The only one: nothing of ours interrupts it.
    Alone,
    /// The first of two.
    First(Hook),
    /// The one that recovers what the first missed; attached right after it.
    Second(Hook),
}

/// Every program, in the order of attaching.
const PROBES: [Probe; 11] = [
    Probe {
        name: "set_state",
        hook: "inet_sock_set_state",
        role: Role::First(Hook::State),
        purpose: "every transition",
    },
    Probe {
        name: "set_state_2",
        hook: "inet_sock_set_state",
        role: Role::Second(Hook::State),
        purpose: "transitions inside an interrupt of another one: about 1 in 100 on a busy network",
    },
    Probe {
        name: "timer_start",
        hook: "timer_start",
        role: Role::Alone,
        purpose: "TIME_WAIT: its beginning and its refreshes",
    },
    Probe {
        name: "timer_cancel",
        hook: "timer_cancel",
        role: Role::Alone,
        purpose: "TIME_WAIT: its end by reuse or reset",
    },
    Probe {
        name: "timer_expire",
        hook: "timer_expire_entry",
        role: Role::Alone,
        purpose: "TIME_WAIT: its end by expiry",
    },
    Probe {
        name: "receive_reset",
        hook: "tcp_receive_reset",
        role: Role::First(Hook::ResetReceived),
        purpose: "whether the peer reset a connection",
    },
    Probe {
        name: "receive_reset_2",
    /// One [`Losses`](tracer_common::event::Losses), which can be mapped.
    pub losses: MapData,
        hook: "tcp_receive_reset",
        role: Role::Second(Hook::ResetReceived),
        purpose: "resets received inside an interrupt of another one",
    },
    Probe {
        name: "send_reset",
        hook: "tcp_send_reset",
        role: Role::First(Hook::ResetSent),
        purpose: "whether this host reset a connection",
    },
    Probe {
        name: "send_reset_2",
        hook: "tcp_send_reset",
        role: Role::Second(Hook::ResetSent),
        purpose: "resets sent inside an interrupt of another one",
    },
    Probe {
        name: "free_segment",
        hook: "kfree_skb",
        role: Role::First(Hook::Segment),
        purpose: "TIME_WAIT: the exact entry after FIN_WAIT2, and repeated FINs",
    },
    Probe {
        name: "free_segment_2",
        hook: "kfree_skb",
        role: Role::Second(Hook::Segment),
        purpose: "segments to TIME_WAIT inside an interrupt of another one",
    },
];

/// The programs whose minisockets' events the engine needs to claim a TIME_WAIT.
pub const TIMER_PROBES: [&str; 3] = ["timer_start", "timer_cancel", "timer_expire"];
/// The program that shows the segments which minisockets handle.
pub const SEGMENT_PROBE: &str = "free_segment";
/// The programs that show resets.
pub const RESET_PROBES: [&str; 2] = ["receive_reset", "send_reset"];
/// The program that shows every setting of a minisocket's timer, where the kernel lets it.
pub const SCHEDULE_PROBE: &str = "schedule";

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
}

impl<'a> Settings<'a> {
    /// Settings for the running kernel.
    #[must_use]
            losses: match ebpf.take_map("LOSSES") {
                Some(aya::maps::Map::Array(losses)) => losses,
                _ => return Err(ProbeError::NoMap("LOSSES")),
            },
    pub fn new(object: Option<&'a [u8]>, buffer_bytes: u32) -> Self {
        Self {
            object,
            buffer_bytes,
            btf: Path::new(VMLINUX),
            kallsyms: Path::new(kallsyms::KALLSYMS),
        }
    }
}

/// The loaded object and its attached programs. They are detached when this is dropped.
pub struct Probes {
    ebpf: Ebpf,
    account: PerCpuArray<MapData, Account>,
    reports: Vec<ProbeReport>,
    links: Vec<(&'static str, BtfTracePointLinkId)>,
    log: Option<EbpfLogger<&'static dyn Log>>,
}

/// What the reader needs of the kernel side.
pub struct Ring {
    /// The ring buffer.
    pub events: RingBuf<MapData>,
    /// 1 while the reader sleeps.
    pub parked: Array<MapData, u32>,
}

impl Probes {
    /// Loads the object and attaches what the kernel accepts.
    ///
    /// # Errors
    /// Where nothing can be traced: no privileges, no BTF, no `inet_sock_set_state`.
    pub fn attach(settings: &Settings<'_>) -> Result<(Self, Ring), ProbeError> {
        let object = settings.object.ok_or(ProbeError::NoObject)?;
        let kernel = KernelBtf::from_file(settings.btf)?;
        let layout = kernel.layout()?;
        let btf = Btf::parse_file(settings.btf, aya::Endianness::default())?;
        let handler = handler::address(settings.kallsyms, object, &btf, &layout);
        let send_reset_arguments = kernel.tracepoint_arguments("tcp_send_reset").unwrap_or(0);
        let constants = Constants {
            layout,
            handler: *handler.as_ref().unwrap_or(&0),
            send_reset_arguments: send_reset_arguments as u32,
        };
        let mut ebpf = load(object, &btf, settings.buffer_bytes, &constants)?;
        let mut reports = Vec::with_capacity(PROBES.len());
        let mut links = Vec::with_capacity(PROBES.len());
        for probe in &PROBES {
            let attached = match refusal(probe, &kernel, &handler) {
                Some(reason) => Err(reason),
                None => attach(&mut ebpf, probe, &btf),
            };
            let state = match attached {
                Ok(link) => {
                    links.push((probe.name, link));
                    ProbeState::Attached
                }
                Err(reason) => ProbeState::Refused(reason),
            };
            if let (ProbeState::Refused(reason), Role::First(Hook::State)) = (&state, probe.role) {
                let (program, hook, reason) = (probe.name, probe.hook, reason.clone());
                return Err(ProbeError::Required {
                    program,
                    hook,
                    reason,
                });
            }
            let (name, hook, purpose) = (probe.name, probe.hook, probe.purpose);
            reports.push(ProbeReport {
                name,
                hook,
                state,
                purpose,
            });
        }
        let ring = Ring {
            events: take(&mut ebpf, "EVENTS")?,
            parked: take(&mut ebpf, "PARKED")?,
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
            if let Some(Program::BtfTracePoint(program)) = self.ebpf.program_mut(name)
                && let Err(error) = program.detach(link)
            {
                tracing::warn!("failed to detach {name}: {error}");
            }
        }
    }

    /// Passes on what the programs have logged.
    pub fn flush_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }

    /// Reads the accounts.
    ///
    /// # Errors
    /// Where the map or a program's fdinfo cannot be read.
    pub fn account(&self) -> io::Result<AccountReading> {
        let statistics = self.statistics()?;
        let mut reading = AccountReading {
            at: clock::monotonic(),
            ..AccountReading::default()
        };
        let mut attempts = 0;
        let mut unrecovered: i64 = statistics
        .override_global(
            "RUN_QUEUE_TO_PREEMPT_COUNT",
            &constants.layout.run_queue_to_preempt_count,
            true,
        )
            .iter()
            .filter(|program| {
                PROBES.iter().any(|probe| {
                    probe.name == program.name && !matches!(probe.role, Role::Second(_))
                })
            })
            .map(|program| i64::try_from(program.recursion_misses).unwrap_or(i64::MAX))
            .sum();
        for (cpu, account) in self.per_cpu()?.iter().enumerate() {
            attempts += account.attempts;
            let lost: u64 = account.lost.iter().sum();
            if lost > 0 {
                reading
                    .lost_by_cpu
                    .push((u16::try_from(cpu).unwrap_or(u16::MAX), lost));
            }
            reading.ring_lost += lost;
            for (total, lost) in reading.lost_by_kind.iter_mut().zip(account.lost) {
                *total += lost;
            }
            let seen_by_second: u64 =
                account.recovered.iter().sum::<u64>() + account.foreign.iter().sum::<u64>();
            unrecovered -= i64::try_from(seen_by_second).unwrap_or(i64::MAX);
        }
        reading.unrecovered = unrecovered;
        reading.hits = attempts.saturating_add_signed(unrecovered);
        Ok(reading)
    }

    /// What the kernel has counted for each attached program.
    ///
    /// # Errors
    /// Where a program's fdinfo cannot be read.
    pub fn statistics(&self) -> io::Result<Vec<ProgramStatistics>> {
        let mut all = Vec::with_capacity(PROBES.len());
        for probe in &PROBES {
            if let Some(Program::BtfTracePoint(program)) = self.ebpf.program(probe.name)
                && let Ok(fd) = program.fd()
            {
                all.push(fdinfo::of_program(probe.name, fd)?);
            }
        }
        Ok(all)
    }

    fn per_cpu(&self) -> io::Result<Vec<Account>> {
        self.account
            .get(&0, 0)
            .map(|values| values.iter().copied().collect())
            .map_err(io::Error::other)
    }
}

/// What is written into the object's .rodata.
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
    EbpfLoader::new()
        .btf(Some(btf))
        .override_global("OFFSETS", &constants.layout.offsets, true)
        .override_global("REPAIR_MASK", &constants.layout.repair_mask, true)
        .override_global("PORT_LOCK_MASK", &constants.layout.port_lock_mask, true)
        .override_global("TW_TIMER_HANDLER", &constants.handler, true)
        .override_global(
            "SEND_RESET_ARGUMENTS",
            &constants.send_reset_arguments,
            true,
        )
        .override_global(aya_log::LEVEL, &level, false)
        .map_max_entries("EVENTS", buffer_bytes)
        .load(object)
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

/// Why not to try at all.
fn refusal(
    probe: &Probe,
    kernel: &KernelBtf,
    handler: &Result<u64, HandlerError>,
) -> Option<String> {
    match (probe.role, kernel.tracepoint_arguments(probe.hook)) {
        (_, None) => Some(format!("this kernel has no tracepoint {}", probe.hook)),
        (Role::First(Hook::Segment) | Role::Second(Hook::Segment), Some(..4)) => {
            Some("kfree_skb does not tell the receiving socket before Linux 6.11".to_owned())
        }
        (Role::Alone, _) => handler.as_ref().err().map(ToString::to_string),
        _ => None,
    }
}

fn attach(ebpf: &mut Ebpf, probe: &Probe, btf: &Btf) -> Result<BtfTracePointLinkId, String> {
    ebpf.program_mut(probe.name)
        .ok_or_else(|| "the BPF object lacks it: it is of another version".to_owned())
        .and_then(|program| {
            let program: &mut BtfTracePoint =
                program.try_into().map_err(|error| one_line(&error))?;
            program
                .load(probe.hook, btf)
                .map_err(|error| one_line(&error))?;
            program.attach().map_err(|error| one_line(&error))
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

const _: () = assert!(Kind::COUNT == 11 && Hook::COUNT == 4);
