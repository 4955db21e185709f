//! One program as events, /proc and system calls know it.

use crate::diagnosis::{Listener, Seen};
use crate::ports::{Holders, Program};
use crate::record::holding::Use;

/// Whether these are one program: system calls and listeners do not tell the cgroup.
pub(super) fn is_same(a: &Program, b: &Program) -> bool {
    a.name == b.name && a.cgroup_id.zip(b.cgroup_id).is_none_or(|(a, b)| a == b)
}

/// Whose a listener is, as the account of ports knows it, and what it holds there. Where nobody was
/// found to hold its descriptor, it is whoever listens on the port.
pub(super) fn listening<'a>(seen: &'a Seen, listener: &Listener) -> (Program, Option<&'a Holders>) {
    let used = seen.ports.service(&listener.service);
    let programs = used.into_iter().flat_map(|used| &used.programs);
    let mut listening: Vec<_> = programs
        .filter(|(_, holders)| holders.counts.of(Use::Listening) > 0)
        .filter(|(program, _)| {
            listener.program.name.is_none() || is_same(program, &listener.program)
        })
        .collect();
    listening.sort_unstable_by_key(|(program, _)| **program);
    match listening.last() {
        Some((program, holders)) => (**program, Some(*holders)),
        None => (listener.program, None),
    }
}

/// Whether a listener is still there: inventories do not show its end, the account of ports does.
pub(super) fn is_there(seen: &Seen, listener: &Listener) -> bool {
    let used = seen.ports.service(&listener.service);
    used.is_some_and(|used| used.listeners > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::example::{Example, program};

    #[test]
    fn a_program_is_the_same_unless_its_cgroups_are_known_to_differ() {
        let of = |name: &str, cgroup_id| Program {
            cgroup_id,
            ..program(name)
        };
        assert!(is_same(&of("app", None), &of("app", Some(7))));
        assert!(is_same(&of("app", Some(7)), &of("app", Some(7))));
        assert!(!is_same(&of("app", Some(8)), &of("app", Some(7))));
        assert!(!is_same(&of("web", None), &of("app", None)));
    }

    #[test]
    fn a_listener_is_known_as_the_account_knows_it() {
        let mut example = Example::new();
        let known = Program {
            cgroup_id: Some(7),
            ..program("app")
        };
        example.listen("0.0.0.0:8080", known);
        let found = |name: &str| {
            let mut listener = *example.seen.listeners.values().next().unwrap();
            listener.program = program(name);
            let (program, holders) = listening(&example.seen, &listener);
            (program, holders.is_some())
        };
        assert_eq!(found("app"), (known, true));
        assert_eq!(found(""), (known, true));
        assert_eq!(found("web"), (program("web"), false));
    }
}
