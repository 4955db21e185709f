//! The way through all namespaces, within a budget.

use std::time::Duration;

use tokio::sync::mpsc;
use tracer_common::tcp::TcpState;

use crate::clock;
use crate::stream::{Holder, Inventory, Purpose, Skipped, StreamRecord, Sweep};

use super::budget::Budget;
use super::dump::{SockDiag, count_sockets};
use super::namespaces::{self, EnterError, Namespace, Whereabouts};
use super::owners::Owners;

/// The processor time that finding the sockets' owners may take beside that.
const OWNERS: Duration = Duration::from_secs(1);

/// Looks at all namespaces in the calling thread, which is to end after it: it is left in one of
/// them. Sends an [`Inventory`] for each, and the [`Sweep`] at last; stops where nobody takes them.
///
/// Namespaces with few sockets come first. So a budget that is too small cuts into the largest one,
/// which loses as much as it must, and no other has to do without because of that one.
pub(super) fn sweep(purpose: Purpose, limit: Duration, results: &mpsc::Sender<StreamRecord>) {
    let whole = Budget::begin(limit + OWNERS);
    // First, since each inventory is told as a whole: a socket that opens later shows its opener.
    let (mut owners, owners_skipped) = match purpose {
        Purpose::Start | Purpose::Resync => Owners::look(&Budget::begin(OWNERS)),
        Purpose::Periodic => (Owners::default(), None),
    };
    let budget = Budget::begin(limit);
    let mut whereabouts = Whereabouts::here();
    let (mut found, mut skipped) = namespaces::find();
    skipped.extend(owners_skipped);
    let mut report = Sweep {
        at: clock::monotonic(),
        purpose,
        namespaces: 0,
        sockets: 0,
        fin_wait2s: 0,
        time_waits: 0,
        cpu: Duration::ZERO,
        skipped,
    };
    for namespace in &mut found {
        // Where it cannot be entered, the second visit says so.
        if namespace.sockets.is_none() && whereabouts.enter(namespace).is_ok() {
            namespace.sockets = count_sockets("/proc/thread-self/net");
        }
    }
    found.sort_by_key(|namespace| namespace.sockets);
    for namespace in &found {
        let (inventory, reason) = visit(namespace, &mut whereabouts, &budget);
        if let Some(reason) = reason {
            report.skipped.push(Skipped {
                netns: Some(namespace.inode),
                path: namespace.path(),
                reason,
            });
        }
        if let Some(mut inventory) = inventory {
            inventory.owners = owners.of(&inventory.found);
            count(&inventory, &mut report);
            if send(results, StreamRecord::Inventory(inventory)).is_none() {
                return;
            }
        }
    }
    report.at = clock::monotonic();
    report.cpu = whole.used();
    send(results, StreamRecord::Swept(report));
}

/// Waits until the loop takes it; `None` where there is no loop any more.
fn send(results: &mpsc::Sender<StreamRecord>, record: StreamRecord) -> Option<()> {
    results.blocking_send(record).ok()
}

/// What a namespace holds, and what of that could not be found out.
fn visit(
    namespace: &Namespace,
    whereabouts: &mut Whereabouts,
    budget: &Budget,
) -> (Option<Inventory>, Option<String>) {
    if budget.is_used_up() {
        return (None, Some(budget.reason()));
    }
    match whereabouts.enter(namespace) {
        Ok(()) => {}
        Err(EnterError::Gone) => return (None, None),
        // There is nothing in it to be seen.
        Err(_) if namespace.sockets == Some(0) => return (None, None),
        Err(error) => return (None, Some(error.to_string())),
    }
    let sock_diag = match SockDiag::open() {
        Ok(sock_diag) => sock_diag,
        Err(error) => return (None, Some(error.to_string())),
    };
    // A walk goes over the whole hash table, which all namespaces share.
    if namespace.sockets == Some(0)
        && let Some(inventory) = sock_diag.none_counted(namespace.inode)
    {
        return (Some(inventory), None);
    }
    let (inventory, result) = sock_diag.dump(namespace.inode, budget);
    (Some(inventory), result.err().map(|error| error.to_string()))
}

fn count(inventory: &Inventory, report: &mut Sweep) {
    report.namespaces += 1;
    for found in &inventory.found {
        *match found.holder {
            Holder::Socket { .. } => &mut report.sockets,
            Holder::Minisocket {
                substate: TcpState::FinWait2,
                ..
            } => &mut report.fin_wait2s,
            Holder::Minisocket { .. } => &mut report.time_waits,
        } += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::fs::MetadataExt as _;
    use std::{fs, thread};

    use super::*;

    /// What a sweep brings, in its own thread, as the loop would take it.
    fn results(limit: Duration) -> (Vec<Inventory>, Sweep) {
        let (sender, mut results) = mpsc::channel(1);
        let thread = thread::spawn(move || sweep(Purpose::Start, limit, &sender));
        let mut inventories = Vec::new();
        let mut swept = None;
        while let Some(result) = results.blocking_recv() {
            assert!(swept.is_none(), "the report comes last");
            match result {
                StreamRecord::Inventory(inventory) => inventories.push(inventory),
                StreamRecord::Swept(report) => swept = Some(report),
                other => panic!("a sweep brings {other:?}"),
            }
        }
        thread.join().unwrap();
        (inventories, swept.unwrap())
    }

    #[test]
    fn a_listener_of_ours_is_found_in_our_namespace() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let cookie = rustix::net::sockopt::socket_cookie(&listener).unwrap();
        let begun = clock::monotonic();
        let (inventories, report) = results(Duration::from_secs(2));
        let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
        let mut own = inventories
            .iter()
            .filter(|inventory| u64::from(inventory.netns) == own);
        let (Some(own), None) = (own.next(), own.next()) else {
            panic!("not one inventory of our namespace: {report:?}");
        };
        assert!(own.whole);
        assert_ne!(own.netns_cookie, 0);
        assert!(begun <= own.from && own.from <= own.until && own.until <= report.at);
        let found = own.found.iter().find(|found| found.cookie == cookie);
        let found = found.expect("the listener is found");
        let uid = rustix::process::getuid().as_raw();
        assert!(matches!(
            found.holder,
            Holder::Socket { state: TcpState::Listen, uid: Some(owner), .. } if owner == uid
        ));
        let port = listener.local_addr().unwrap().port();
        assert_eq!(found.flow.local.port, port);
        assert_eq!(report.namespaces, inventories.len() as u64);
        let sockets: usize = inventories.iter().map(|found| found.found.len()).sum();
        let counted = report.sockets + report.fin_wait2s + report.time_waits;
        assert_eq!(counted, sockets as u64);
        assert!(!report.cpu.is_zero());
    }

    #[test]
    fn a_socket_in_close_wait_tells_since_when_and_whose_it_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        drop(client);
        thread::sleep(Duration::from_millis(300));
        let cookie = rustix::net::sockopt::socket_cookie(&server).unwrap();
        let (inventories, _) = results(Duration::from_secs(2));
        let mut founds = inventories.iter().flat_map(|inventory| &inventory.found);
        let found = founds.find(|found| found.cookie == cookie).unwrap();
        let Holder::Socket {
            state, silent_for, ..
        } = found.holder
        else {
            panic!("a full socket: {found:?}");
        };
        assert_eq!(state, TcpState::CloseWait);
        let silent_for = silent_for.expect("it was asked").as_millis();
        assert!((290..2_000).contains(&silent_for), "{silent_for} ms");
        let mut owners = inventories.iter().flat_map(|inventory| &inventory.owners);
        let owner = owners.find(|owner| owner.cookie == cookie).unwrap();
        assert_eq!((owner.pid, owner.reuse_address), (std::process::id(), None));
    }

    #[test]
    fn what_the_budget_does_not_reach_is_named() {
        let (inventories, report) = results(Duration::ZERO);
        assert_eq!(inventories, []);
        let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
        let own = report
            .skipped
            .iter()
            .find(|skipped| skipped.netns.map(u64::from) == Some(own))
            .expect("our namespace was skipped");
        assert_eq!(own.reason, "the budget of 0ns was used up");
    }

    #[test]
    fn a_walk_that_is_broken_off_is_not_whole() {
        let sock_diag = SockDiag::open().unwrap();
        let _listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (inventory, result) = sock_diag.dump(7, &Budget::begin(Duration::ZERO));
        assert!(!inventory.whole);
        // The first part had come.
        assert_ne!(inventory.found, []);
        let said = result.unwrap_err().to_string();
        assert_eq!(said, "the budget of 0ns was used up");
    }

    #[test]
    fn a_sweep_ends_with_who_asked_for_it() {
        let (sender, results) = mpsc::channel(1);
        drop(results);
        let thread = thread::spawn(move || sweep(Purpose::Start, Duration::from_secs(2), &sender));
        thread.join().unwrap();
    }
}
