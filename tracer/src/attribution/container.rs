//! What a control group's path says of containers, pods and services.
//!
//! The paths are those that Docker, containerd, CRI-O, Podman, nerdctl, Kubernetes and LXC make with
//! either driver (systemd's units, or bare directories) and in either version of the hierarchy. In
//! a container within a container, as of kind, the innermost is meant.

/// A container, as its cgroup's path names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its id: 64 hexadecimal digits as a rule; of LXC its name.
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
    /// LXC, and what is built on it.
    Lxc,
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
            Self::Lxc => Some("lxc"),
            Self::Unknown => None,
        }
    }
}

impl Container {
    /// The container that a cgroup of this path belongs to, if the path names one.
    #[must_use]
    pub fn of(path: &str) -> Option<Self> {
        let (mut innermost, mut pod) = (None, None);
        let mut parent = "";
        for component in path.split('/') {
            // containerd writes the three parts of a systemd path as one directory where it was not
            // told of the systemd driver.
            for part in component.split(':') {
                if let Some(uid) = pod_uid(part) {
                    pod = Some(uid);
                }
            }
            if let Some((runtime, id)) = container(parent, component) {
                innermost = Some(Self {
                    id: id.to_owned(),
                    runtime,
                    // A container within this one is in no pod of the outer cluster.
                    pod_uid: pod.take(),
                });
            }
            parent = component;
        }
        innermost
    }
}

/// The innermost unit of systemd that a cgroup of this path belongs to: a service, a scope, or,
/// where there is neither within it, a slice.
#[must_use]
pub fn unit(path: &str) -> Option<&str> {
    const SUFFIXES: [&str; 3] = [".service", ".scope", ".slice"];

    let is_unit = |component: &&str| {
        let mut suffixes = SUFFIXES.iter();
        suffixes.any(|suffix| component.len() > suffix.len() && component.ends_with(suffix))
    };
    path.rsplit('/').find(is_unit)
}

/// What a directory's name says of a container, its parent's being `parent`.
fn container<'a>(parent: &str, name: &'a str) -> Option<(Runtime, &'a str)> {
    if let Some(name) = name.strip_prefix("lxc.payload.") {
        return Some((Runtime::Lxc, name)).filter(|_| !name.is_empty());
    }
    if parent == "lxc" && !name.is_empty() {
        return Some((Runtime::Lxc, name));
    }
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let (prefix, id) = match name.rsplit_once([':', '-']) {
        Some((prefix, id)) => (prefix.rsplit(':').next().unwrap_or(prefix), id),
        None => ("", name),
    };
    if !is_id(id) {
        return None;
    }
    let runtime = match prefix {
        "" if parent == "docker" => Runtime::Docker,
        "" => Runtime::Unknown,
        "docker" => Runtime::Docker,
        "cri-containerd" | "nerdctl" => Runtime::Containerd,
        "crio" => Runtime::CriO,
        "libpod" => Runtime::Podman,
        // Among them crio-conmon and libpod-conmon, the containers' keepers outside of them.
        _ => return None,
    };
    Some((runtime, id))
}

/// The pod that a directory's name names: `pod<uid>`, or in systemd's words
/// `kubepods-burstable-pod<uid>.slice`, where a dash would mean a level more.
fn pod_uid(name: &str) -> Option<String> {
    let uid = match name.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod")?.1.replace('_', "-"),
        None => name.strip_prefix("pod")?.to_owned(),
    };
    let has_digits = |part: &str, length| part.len() == length && is_hexadecimal(part);
    let is_uuid = || {
        let mut lengths = [8, 4, 4, 4, 12].into_iter();
        let mut parts = uid.split('-');
        let fit = lengths.all(|length| parts.next().is_some_and(|part| has_digits(part, length)));
        fit && parts.next().is_none()
    };
    // A static pod's is a hash of its file.
    (is_uuid() || has_digits(&uid, 32)).then_some(uid)
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && is_hexadecimal(text)
}

fn is_hexadecimal(text: &str) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    text.bytes().all(is_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `ID` and `ID2` stand for 64 digits, `UID` for a pod's.
    fn written_out(path: &str) -> String {
        path.replace("ID2", &"5e".repeat(32))
            .replace("U_I_D", &UID.replace('-', "_"))
            .replace("UID", UID)
            .replace("ID", &"0a".repeat(32))
    }

    const UID: &str = "2f6d7a3e-8c1b-4b55-9a0e-3d1c5b7f9e42";

    #[test]
    fn containers_of_every_runtime_are_known_by_their_paths() {
        use Runtime::{Containerd, CriO, Docker, Lxc, Podman, Unknown};

        for (path, runtime, id, pod) in [
            // Docker: cgroupfs and systemd drivers; a systemd within.
            ("/docker/ID", Docker, "ID", false),
            ("/system.slice/docker-ID.scope", Docker, "ID", false),
            ("/docker/ID/system.slice/nginx.service", Docker, "ID", false),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope",
                Docker,
                "ID",
                false,
            ),
            // Kubernetes, by cgroupfs: the path does not say by which runtime.
            ("/kubepods/besteffort/podUID/ID", Unknown, "ID", true),
            ("/kubepods/podUID/ID", Unknown, "ID", true),
            ("/kubepods/burstable/podUID/crio-ID", CriO, "ID", true),
            // By systemd.
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_I_D.slice/cri-containerd-ID.scope",
                Containerd,
                "ID",
                true,
            ),
            (
                "/kubepods.slice/kubepods-podU_I_D.slice/cri-containerd-ID.scope",
                Containerd,
                "ID",
                true,
            ),
            (
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU_I_D.slice/crio-ID.scope/container",
                CriO,
                "ID",
                true,
            ),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_I_D.slice/docker-ID.scope",
                Docker,
                "ID",
                true,
            ),
            (
                "/system.slice/containerd.service/kubepods-burstable-podU_I_D.slice:cri-containerd:ID",
                Containerd,
                "ID",
                true,
            ),
            // kind: a cluster within Docker.
            (
                "/docker/ID2/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-podU_I_D.slice/cri-containerd-ID.scope",
                Containerd,
                "ID",
                true,
            ),
            (
                "/docker/ID2/kubelet/kubepods/besteffort/podUID/ID",
                Unknown,
                "ID",
                true,
            ),
            // Docker in a pod.
            ("/kubepods/podUID/ID2/docker/ID", Docker, "ID", false),
            // Podman, of root and of a user.
            ("/machine.slice/libpod-ID.scope", Podman, "ID", false),
            (
                "/machine.slice/libpod-ID.scope/container",
                Podman,
                "ID",
                false,
            ),
            ("/libpod_parent/libpod-ID", Podman, "ID", false),
            (
                "/machine.slice/machine-libpod_pod_ID2.slice/libpod-ID.scope",
                Podman,
                "ID",
                false,
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container",
                Podman,
                "ID",
                false,
            ),
            // nerdctl, and ctr's bare directories.
            ("/system.slice/nerdctl-ID.scope", Containerd, "ID", false),
            ("/default/ID", Unknown, "ID", false),
            // LXC.
            ("/lxc.payload.web", Lxc, "web", false),
            (
                "/lxc.payload.web/system.slice/nginx.service",
                Lxc,
                "web",
                false,
            ),
            ("/lxc/101/ns/init.scope", Lxc, "101", false),
            ("/lxc.payload.web/docker/ID", Docker, "ID", false),
        ] {
            let expected = Container {
                id: written_out(id),
                runtime,
                pod_uid: pod.then(|| UID.to_owned()),
            };
            assert_eq!(Container::of(&written_out(path)), Some(expected), "{path}");
        }
    }

    #[test]
    fn what_is_no_container_is_none() {
        for path in [
            "",
            "/",
            "/init.scope",
            "/system.slice/docker.service",
            "/system.slice/containerd.service",
            "/docker",
            "/docker/buildkit",
            "/docker/0a0a0a",
            "/system.slice/docker-web.scope",
            "/user.slice/user-1000.slice/session-2.scope",
            "/kubepods/besteffort/podUID",
            "/kubepods.slice/kubepods-podU_I_D.slice",
            "/kubepods.slice/kubepods-podU_I_D.slice/crio-conmon-ID.scope",
            "/machine.slice/libpod-conmon-ID.scope",
            "/libpod_parent/conmon",
            "/lxc.monitor.web",
            "/lxc.payload.",
            "/lxc",
        ] {
            assert_eq!(Container::of(&written_out(path)), None, "{path}");
        }
    }

    #[test]
    fn a_static_pods_uid_is_a_hash() {
        let hash = "c9".repeat(16);
        let path = format!("/kubepods/burstable/pod{hash}/{}", "0a".repeat(32));
        let container = Container::of(&path).expect("a container");
        assert_eq!(container.pod_uid, Some(hash));
    }

    #[test]
    fn the_unit_is_the_innermost() {
        for (path, expected) in [
            ("/system.slice/php-fpm.service", Some("php-fpm.service")),
            ("/init.scope", Some("init.scope")),
            ("/system.slice", Some("system.slice")),
            (
                "/system.slice/system-getty.slice/getty@tty1.service",
                Some("getty@tty1.service"),
            ),
            (
                "/user.slice/user-1000.slice/session-2.scope",
                Some("session-2.scope"),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.scope",
                Some("app-x.scope"),
            ),
            (
                "/system.slice/systemd-udevd.service/udev",
                Some("systemd-udevd.service"),
            ),
            (
                "/lxc.payload.web/system.slice/nginx.service",
                Some("nginx.service"),
            ),
            ("/docker/0a0a", None),
            ("/.service", None),
            ("/", None),
        ] {
            assert_eq!(unit(path), expected, "{path}");
        }
    }
}
