//! Programs that do nothing, on the hooks that are measured: what they take is what the kernel's
//! statistics themselves cost.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};

use crate::programs::{self, Runs};

/// Hooks of tracer's, the first being the one that counts transitions.
const HOOKS: [&std::ffi::CStr; 3] = [c"inet_sock_set_state", c"timer_start", c"timer_cancel"];

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_int = 17;
const BPF_PROG_TYPE_RAW_TRACEPOINT: u32 = 17;

/// `r0 = 0; exit`.
const NOTHING: [u64; 2] = [0xb7, 0x95];

/// The head of the kernel's `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
struct Load {
    program_type: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// The same for BPF_RAW_TRACEPOINT_OPEN.
#[repr(C)]
struct Open {
    name: u64,
    program: u32,
    padding: u32,
}

/// Attached as long as it lives.
pub struct Empties {
    programs: Vec<OwnedFd>,
    _links: Vec<OwnedFd>,
}

impl Empties {
    /// Attaches one to each hook.
    pub fn attach() -> Result<Self> {
        let mut programs = Vec::new();
        let mut links = Vec::new();
        for hook in HOOKS {
            let program = load().context("failed to load an empty program")?;
            let mut open = Open {
                name: hook.as_ptr() as u64,
                program: program.as_raw_fd().unsigned_abs(),
                padding: 0,
            };
            let link = bpf(BPF_RAW_TRACEPOINT_OPEN, &mut open)
                .with_context(|| format!("failed to attach to {}", hook.to_string_lossy()))?;
            programs.push(program);
            links.push(link);
        }
        Ok(Self {
            programs,
            _links: links,
        })
    }

    /// What each has run so far, in the order of the hooks.
    pub fn runs(&self) -> Result<[Runs; HOOKS.len()]> {
        let mut all = [Runs::default(); HOOKS.len()];
        for (runs, program) in all.iter_mut().zip(&self.programs) {
            *runs = programs::of_descriptor(program)?;
        }
        Ok(all)
    }
}

fn load() -> io::Result<OwnedFd> {
    let mut load = Load {
        program_type: BPF_PROG_TYPE_RAW_TRACEPOINT,
        instructions: NOTHING.len() as u32,
        code: NOTHING.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"empty\0\0\0\0\0\0\0\0\0\0\0",
    };
    bpf(BPF_PROG_LOAD, &mut load)
}

/// One bpf() call that makes a descriptor. The kernel takes a shorter union for one whose rest is
/// zero.
fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: `attributes` is laid out as the kernel's union begins, and what it points to lives
    // through the call.
    let descriptor = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    match i32::try_from(descriptor) {
        // SAFETY: the kernel has just made it, and nobody else has it.
        Ok(descriptor @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    }
}
