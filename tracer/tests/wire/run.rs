//! Scripts at work: each is a state machine that is stepped, so that many can share one wire.

use std::net::{IpAddr, SocketAddr};
use std::sync::RwLock;
use std::time::{Duration, Instant};

use crate::local::{Act, BindTo, Outcome, Sockets};
use crate::namespace::Namespace;
use crate::peer::{Family, Wire};
use crate::script::{Need, Script, Step, Sysctl, What};
use crate::segment::Segment;
use crate::sock_diag::SockDiag;
use crate::talk::Talk;

/// Ports of peers: this one and the next for a script's connections.
const PEER_PORT: u16 = 17_000;
/// How many connections a script may have.
const CONNECTIONS: u16 = 4;
/// The port of every listener: each has an address of its own.
const LISTENER_PORT: u16 = PEER_PORT + CONNECTIONS;
/// How often the kernel is asked for what does not show on the wire: by this part of the time that
/// was waited for it already, within these bounds.
const ASK_AGAIN: u32 = 8;
const ASK_AGAIN_WITHIN: [Duration; 2] = [Duration::from_micros(200), Duration::from_millis(50)];

/// Whoever takes a step reads it; whoever changes a setting of the whole host writes.
static HOST: RwLock<()> = RwLock::new(());

/// The ports of which every connection of every script has one, at one end or the other.
pub fn ports() -> Vec<u16> {
    (PEER_PORT..=LISTENER_PORT).collect()
}

/// A namespace, its wire, and the scripts that have been played on it.
pub struct World {
    pub namespace: Namespace,
    wire: Wire,
    diag: SockDiag,
    /// Scripts so far: each has a host of its own.
    hosts: u16,
}

impl World {
    /// Makes one with the settings of a script, or of none.
    pub fn new(script: Option<&Script>) -> Self {
        let namespace = Namespace::new();
        let wire = Wire::new(&namespace);
        // Every segment that is out of place is answered, and there is room for every TIME_WAIT.
        for (name, value) in [
            ("tcp_invalid_ratelimit", "0"),
            ("tcp_max_tw_buckets", "100000"),
        ] {
            namespace.sysctl(&format!("net.ipv4.{name}"), value);
        }
        for Sysctl {
            name,
            value,
            is_needed,
        } in script.map_or(&[][..], |script| &script.sysctls)
        {
            let set = namespace.try_sysctl(name, value);
            assert!(set || !is_needed, "{name} = {value} was refused");
        }
        for words in script.map_or(&[][..], |script| &script.ip) {
            namespace.ip(words);
        }
        let diag = SockDiag::new(&namespace);
        Self {
            namespace,
            wire,
            diag,
            hosts: 0,
        }
    }

    /// A host of its own for one more script.
    pub fn host(&mut self) -> u16 {
        self.hosts += 1;
        self.hosts
    }

    /// Why a script cannot be played on this kernel, if so.
    pub fn lacks(script: &Script) -> Option<String> {
        let bare = Namespace::new();
        for Sysctl { name, .. } in script.sysctls.iter().filter(|sysctl| sysctl.is_needed) {
            let path = format!("/proc/sys/{}", name.replace('.', "/"));
            if !bare.run(|| std::path::Path::new(&path).exists()) {
                return Some(format!("this kernel has no {name}"));
            }
        }
        for words in &script.ip {
            if let Err(reason) = bare.try_command("ip", words) {
                return Some(reason);
            }
        }
        let nobody = SocketAddr::new(Family::V4.local(), 1);
        script.needs.iter().find_map(|need| match need {
            Need::Mptcp => (!std::path::Path::new("/proc/sys/net/mptcp/enabled").exists())
                .then(|| "this kernel has no MPTCP".to_owned()),
            Need::Destroy => (SockDiag::new(&bare).destroy(nobody, nobody)
                == Err(libc::EOPNOTSUPP))
            .then(|| "this kernel has no SOCK_DESTROY".to_owned()),
        })
    }

    /// Plays scripts together to their ends, on the calling thread, which moves inside for good.
    /// `pick` says whose turn it is among so many.
    pub fn play(&mut self, plays: &mut [Play<'_>], mut pick: impl FnMut(usize) -> usize) {
        let mut running: Vec<usize> = (0..plays.len()).collect();
        for play in &*plays {
            self.wire.attend(play.host);
        }
        while !running.is_empty() {
            let first = pick(running.len());
            let mut wait_until = Instant::now() + Duration::from_secs(1);
            let mut moved = false;
            for turn in 0..running.len() {
                let index = (first + turn) % running.len();
                let play = &mut plays[running[index]];
                // A setting of the whole host is changed while nobody else acts.
                let (_alone, _others) = if play.changes_host() {
                    (Some(HOST.write()), None)
                } else {
                    (None, Some(HOST.read()))
                };
                match play.step(self) {
                    Progress::Stepped => moved = true,
                    Progress::Blocked(until) => {
                        wait_until = wait_until.min(until);
                        continue;
                    }
                    Progress::Over => {
                        self.wire.leave(play.host);
                        running.remove(index);
                        moved = true;
                    }
                }
                break;
            }
            if !moved {
                self.wire.wait(wait_until);
            }
        }
    }
}

/// How a step went.
pub enum Progress {
    Stepped,
    /// Nothing can be done before this, unless a packet comes.
    Blocked(Instant),
    Over,
}

/// A script being played.
pub struct Play<'a> {
    pub script: &'a Script,
    pub family: Family,
    pub talks: Vec<Talk>,
    /// Where its listener is, if it makes one.
    pub listener: SocketAddr,
    /// What went wrong.
    pub failure: Option<String>,
    host: IpAddr,
    sockets: Sockets,
    next: usize,
    /// When the next step was first tried.
    began: Option<Instant>,
    /// What is there instead of what is waited for.
    seen: String,
    heeds: bool,
    last_packet: Option<Vec<u8>>,
    transcript: Vec<String>,
}

impl<'a> Play<'a> {
    /// Sets it up for the host with this number.
    pub fn new(script: &'a Script, family: Family, number: u16) -> Self {
        let host = family.peer(number);
        assert!(script.connections.len() <= usize::from(CONNECTIONS));
        let talks = (0..).zip(&script.connections).map(|(index, _)| {
            // Any start will do; this one brings the numbers near their end now and then.
            let first = u32::from(number).wrapping_mul(0x9e37_79b9) ^ (index << 28);
            Talk::new(SocketAddr::new(host, PEER_PORT + index as u16), first)
        });
        Self {
            script,
            family,
            talks: talks.collect(),
            listener: SocketAddr::new(family.listener(number), LISTENER_PORT),
            failure: None,
            host,
            sockets: Sockets::new(script.connections.len()),
            next: 0,
            began: None,
            seen: String::new(),
            heeds: true,
            last_packet: None,
            transcript: Vec::new(),
        }
    }

    /// Takes the next step, if it is possible now.
    pub fn step(&mut self, world: &mut World) -> Progress {
        let now = Instant::now();
        let Some(step) = self.script.steps.get(self.next) else {
            if let Err(problem) = self.nothing_new(world, None) {
                self.fail(None, &format!("at its end {problem}"));
            }
            return self.end();
        };
        let began = *self.began.get_or_insert(now);
        match self.attempt(world, step, now.duration_since(began)) {
            Ok(None) => {
                self.next += 1;
                self.began = None;
                self.seen.clear();
                Progress::Stepped
            }
            Ok(Some(_)) if now >= began + step.patience => {
                let problem = format!("it did not come to that: {}", self.seen);
                self.fail(Some(step), &problem);
                self.end()
            }
            Ok(Some(again)) => Progress::Blocked((now + again).min(began + step.patience)),
            Err(problem) => {
                self.fail(Some(step), &problem);
                self.end()
            }
        }
    }

    /// Whether its next step does.
    fn changes_host(&self) -> bool {
        let step = self.script.steps.get(self.next);
        step.is_some_and(|step| matches!(step.what, What::Local(Act::CloseUnder { .. })))
    }

    /// Its sockets are closed whatever became of it.
    fn end(&mut self) -> Progress {
        self.sockets = Sockets::new(0);
        Progress::Over
    }

    /// Tries a step that was first tried so long ago; when to try again if it is not possible yet.
    fn attempt(
        &mut self,
        world: &mut World,
        step: &Step,
        waited: Duration,
    ) -> Result<Option<Duration>, String> {
        let who = step.who;
        match &step.what {
            What::Expect(_) => self.expect(world, step),
            What::Send(line) => {
                let listener = self.listener;
                let talk = &mut self.talks[who];
                talk.local.get_or_insert(listener);
                let before = talk.compose(line)?;
                self.transcript.push(talk.describe(&before, false));
                world.wire.send(&before.to_bytes());
                Ok(None)
            }
            What::Icmp(error) => {
                let about = self.last_packet.as_ref();
                let about = about.ok_or("the kernel has sent nothing yet")?;
                world.wire.send(&error.about(about));
                Ok(None)
            }
            What::Local(act) => Ok(self.act(who, act)?.then_some(ask_again(waited))),
            What::Holds(expected) => {
                let (local, peer) = self.tuple(who)?;
                let holder = world.diag.holder(local, peer);
                if holder == *expected {
                    return Ok(None);
                }
                self.seen = format!("{holder:?} holds the tuple");
                Ok(Some(ask_again(waited)))
            }
            What::Port(port) => {
                let local = SocketAddr::new(self.family.local(), *port);
                self.talks[who].local = Some(local);
                Ok(None)
            }
            What::Destroy => {
                let (local, peer) = self.tuple(who)?;
                let destroyed = world.diag.destroy(local, peer);
                destroyed
                    .map_err(|errno| format!("{}", std::io::Error::from_raw_os_error(errno)))?;
                Ok(None)
            }
            What::Wait(time) => Ok(time.checked_sub(waited).filter(|left| !left.is_zero())),
            What::Silence(time) => {
                self.nothing_new(world, Some(who))?;
                Ok(time.checked_sub(waited).filter(|left| !left.is_zero()))
            }
            What::Ignore | What::Heed => {
                while world.wire.take(self.host, |_| true).is_some() {}
                self.heeds = step.what == What::Heed;
                Ok(None)
            }
        }
    }

    fn expect(&mut self, world: &mut World, step: &Step) -> Result<Option<Duration>, String> {
        let What::Expect(line) = &step.what else {
            unreachable!("only for what is expected");
        };
        let talk = &mut self.talks[step.who];
        let (peer, local) = (talk.peer, talk.local);
        loop {
            let mine = |segment: &Segment| {
                segment.to == peer && local.is_none_or(|local| local == segment.from)
            };
            let Some(packet) = world.wire.take(self.host, mine) else {
                return Ok(Some(Duration::from_secs(1)));
            };
            let segment = packet.segment;
            self.transcript.push(talk.describe(&segment, true));
            match talk.judge(line, &segment) {
                Ok(()) => {
                    self.last_packet = Some(packet.bytes);
                    return Ok(None);
                }
                Err(_) if talk.passes_over(&segment) => {}
                Err(problem) => return Err(format!("the kernel sent something else: {problem}")),
            }
        }
    }

    /// Whether the act is not possible yet.
    fn act(&mut self, who: usize, act: &Act) -> Result<bool, String> {
        let any = SocketAddr::new(self.family.local(), 0);
        let local = match act {
            Act::Listen => self.listener,
            Act::Bind(BindTo::Port(port)) => SocketAddr::new(self.family.local(), *port),
            Act::Bind(BindTo::PortOf(other)) => self.talks[*other]
                .local
                .ok_or("the other connection has no port yet")?,
            _ => any,
        };
        if let Act::Connect {
            to: Some(other), ..
        } = act
        {
            self.talks[who].peer = self.talks[*other].peer;
        }
        let outcome = self.sockets.act(who, act, local, self.talks[who].peer);
        if let (Act::Connect { .. } | Act::Reconnect(_) | Act::Bind(_), Some(socket)) =
            (act, self.sockets.connections[who].as_ref())
        {
            let bound = socket.local_addr().ok().and_then(|bound| bound.as_socket());
            self.talks[who].local = bound.filter(|bound| bound.port() != 0);
        }
        match outcome {
            Ok(Outcome::Done) => Ok(false),
            Ok(Outcome::Later) => Ok(true),
            Err(error) => Err(error.to_string()),
        }
    }

    fn tuple(&self, who: usize) -> Result<(SocketAddr, SocketAddr), String> {
        let talk = &self.talks[who];
        let local = talk.local.ok_or("it has no tuple yet")?;
        Ok((local, talk.peer))
    }

    /// The kernel has sent nothing that no step has looked at.
    fn nothing_new(&mut self, world: &mut World, who: Option<usize>) -> Result<(), String> {
        for (index, talk) in self.talks.iter_mut().enumerate() {
            if !self.heeds || who.is_some_and(|who| who != index) {
                continue;
            }
            let peer = talk.peer;
            while let Some(packet) = world.wire.take(self.host, |segment| segment.to == peer) {
                if !talk.passes_over(&packet.segment) {
                    let shown = talk.describe(&packet.segment, true);
                    return Err(format!("the kernel sent {shown}"));
                }
            }
        }
        Ok(())
    }

    fn fail(&mut self, step: Option<&Step>, problem: &str) {
        let (number, text) = step.map_or((0, "the end"), |step| (step.number, &step.text));
        self.failure = Some(format!(
            "{}.wire:{number} ({:?}): `{text}`: {problem}; on the wire so far:\n    {}",
            self.script.name,
            self.family,
            self.transcript.join("\n    "),
        ));
    }
}

fn ask_again(waited: Duration) -> Duration {
    let [least, most] = ASK_AGAIN_WITHIN;
    (waited / ASK_AGAIN).clamp(least, most)
}
