//! A scripted TCP peer: real sockets of the kernel on one end of a TUN device, the scripts of
//! `scripts/` on the other, and the program's word held to what they say.
//!
//! A peer of our own can do what no other kernel would: fall silent, lose an ACK, send a FIN again,
//! send late. `script.rs` has the language. They need root and skip without it.

#![expect(
    clippy::disallowed_methods,
    reason = "the tests are the outside world: they hold the tracer to clocks of their own"
)]

#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "shared with tests that need more of it")]
mod support;
use support::{gate, kernel, lines, namespace, ndjson, pace, sock_diag, tracer, witness};

mod coverage;
mod expect;
mod interleaved;
mod local;
mod multipath;
mod parse;
mod peer;
mod run;
mod script;
mod segment;
mod talk;

use std::cell::RefCell;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use expect::Records;
use peer::{Family, Wire};
use run::{Play, World};
use script::Script;
use tracer::Tracer;

/// How long records may take once the last script is over.
const SETTLED: Duration = Duration::from_secs(5);

#[test]
fn every_script_that_needs_no_long_timer_is_told_as_it_was() {
    play_all(&|script| !script.is_slow());
}

#[test]
fn every_script_that_waits_for_long_timers_is_told_as_it_was() {
    play_all(&Script::is_slow);
}

fn scripts() -> Vec<Script> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire/scripts");
    Script::all(&directory)
}

/// Those that are asked for: all, or those whose names hold what WIRE says.
fn wanted() -> Vec<Script> {
    let part = std::env::var("WIRE").unwrap_or_default();
    let mut scripts = scripts();
    scripts.retain(|script| script.name.contains(&part));
    scripts
}

/// Plays the chosen scripts at the same time. Those that lacked events which the machine hides are
/// played anew, and they alone.
fn play_all(chosen: &dyn Fn(&Script) -> bool) {
    let mut scripts = wanted();
    scripts.retain(chosen);
    let left: RefCell<Vec<(&Script, Family)>> = RefCell::new(
        scripts
            .iter()
            .flat_map(|script| script.families.iter().map(move |family| (script, *family)))
            .collect(),
    );
    gate::quiet(|| {
        if !Wire::is_possible() {
            println!("skipped: this kernel has no TUN devices (/dev/net/tun)");
            return;
        }
        let playing = left.take();
        let (failed, problems) = play(&playing);
        let count = playing.len();
        left.replace(failed);
        assert!(
            problems.is_empty(),
            "{} of {count} scripts are told otherwise than they were:\n{}",
            left.borrow().len(),
            problems.join("\n")
        );
    });
}

/// Plays them, and returns those that failed and why.
fn play<'a>(scripts: &[(&'a Script, Family)]) -> (Vec<(&'a Script, Family)>, Vec<String>) {
    let mut possible: Vec<(&Script, Family)> = Vec::new();
    for (script, family) in scripts {
        match World::lacks(script) {
            Some(reason) => println!("skipped: {}: {reason}", script.name),
            None => possible.push((script, *family)),
        }
    }
    let (own, shared): (Vec<_>, Vec<_>) = possible
        .into_iter()
        .partition(|(script, _)| script.has_own_namespace());
    let mut worlds = vec![shared];
    worlds.extend(own.into_iter().map(|script| vec![script]));

    let tracer = Tracer::watch(&tracer::ports(&run::ports()));
    let began = Instant::now();
    // What is left in a world is purged with it, which must not be seen before the tracer ends.
    let mut kept = Vec::new();
    let mut played: Vec<(Play<'_>, u32)> = Vec::new();
    thread::scope(|scope| {
        let worlds: Vec<_> = worlds
            .iter()
            .map(|scripts| scope.spawn(|| play_in_one_world(scripts)))
            .collect();
        for world in worlds {
            let (world, plays) = world.join().expect("a world is played to its end");
            let netns = world.namespace.inode;
            played.extend(plays.into_iter().map(|play| (play, netns)));
            let deletes = |(play, _): &(Play<'_>, u32)| play.script.deletes_namespace;
            if played.last().is_some_and(deletes) {
                drop(world);
            } else {
                kept.push(world);
            }
        }
    });
    println!("{} scripts took {:.1?}", played.len(), began.elapsed());

    let (finished, wrong) = hold_to_records(tracer, &mut played);
    drop(kept);
    finished.assert_account();
    let failed = wrong.iter().map(|(index, _)| &played[*index].0);
    let failed = failed.map(|play| (play.script, play.family)).collect();
    (failed, wrong.into_iter().map(|(_, why)| why).collect())
}

/// Gives the tracer a while to print what is due, ends it, and says which scripts it told
/// otherwise than they were: by index.
fn hold_to_records(
    tracer: Tracer,
    played: &mut [(Play<'_>, u32)],
) -> (lines::Finished, Vec<(usize, String)>) {
    let wrong = |lines: &lines::Lines, played: &[(Play<'_>, u32)]| {
        let records = Records::of(lines);
        let problems = played.iter().enumerate().map(|(index, (play, netns))| {
            let said = expect::problems(play, *netns, &records);
            (index, said)
        });
        let wrong: Vec<_> = problems.filter(|(_, said)| !said.is_empty()).collect();
        wrong
    };
    let deadline = Instant::now() + SETTLED;
    while tracer.look(|lines| !wrong(lines, played).is_empty()) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(100));
    }
    let finished = tracer.stop();
    let lost = (finished.summary.ring_lost, finished.summary.missed);
    if lost != (0, 0) {
        println!("the tracer lacked events, and knows it: ring_lost, missed {lost:?}");
    }
    let mut said: Vec<Vec<String>> = vec![Vec::new(); played.len()];
    for (index, problems) in wrong(&finished.lines, played) {
        said[index] = problems;
    }
    for (said, (play, _)) in said.iter_mut().zip(played) {
        said.splice(0..0, play.failure.take());
    }
    let wrong = said.into_iter().enumerate();
    let wrong = wrong.filter(|(_, said)| !said.is_empty());
    (
        finished,
        wrong
            .map(|(index, said)| (index, said.join("\n  ")))
            .collect(),
    )
}

/// Plays scripts in a namespace of their own.
fn play_in_one_world<'a>(scripts: &[(&'a Script, Family)]) -> (World, Vec<Play<'a>>) {
    let own = scripts
        .iter()
        .map(|(script, _)| *script)
        .find(|script| script.has_own_namespace());
    let mut world = World::new(own);
    let mut plays: Vec<Play<'a>> = scripts
        .iter()
        .map(|(script, family)| Play::new(script, *family, world.host()))
        .collect();
    thread::scope(|scope| {
        let player = scope.spawn(|| {
            world.namespace.enter();
            world.play(&mut plays, |_| 0);
            (world, plays)
        });
        player.join().expect("the scripts are played to their ends")
    })
}
