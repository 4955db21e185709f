//! What a control group's path says of containers, pods and services.

/// A container, as its cgroup's path names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its id: 64 hexadecimal digits as a rule.
    pub id: String,
    /// What runs it.
    pub runtime: Runtime,
    /// UID of its Kubernetes pod, with dashes.
    pub pod_uid: Option<String>,
}

/// A container runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Runtime {
    /// Docker.
    Docker,
    /// containerd.
    Containerd,
    /// CRI-O.
    CriO,
    /// Podman.
    Podman,
    /// Another one, or the path does not say.
    Unknown,
}

impl Runtime {
    /// As OpenTelemetry's `container.runtime.name` has it; `None`: not known.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::Docker => Some("docker"),
            Self::Containerd => Some("containerd"),
            Self::CriO => Some("cri-o"),
            Self::Podman => Some("podman"),
            Self::Unknown => None,
        }
    }
}
