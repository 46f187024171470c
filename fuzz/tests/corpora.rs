//! Every corpus, as it is and mutated a little: what has once failed does not fail again.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::collections::BTreeSet;

use wrenn_fuzz::{Mutator, TARGETS, corpus};

/// Mutated inputs for each target: seconds in a debug build. `make fuzz` runs for longer.
const MUTATED: usize = 2000;
/// Seed of them, so that a failure shows on every machine.
const SEED: u64 = 1;

#[test]
fn every_input_of_every_corpus_is_parsed_or_refused() {
    for target in TARGETS {
        for (path, input) in corpus(target.name).unwrap() {
            let outcome = std::panic::catch_unwind(|| (target.run)(&input));
            assert!(outcome.is_ok(), "{}: {} failed", target.name, path.display());
        }
    }
}

#[test]
fn mutated_inputs_are_parsed_or_refused() {
    for target in TARGETS {
        let seeds: Vec<Vec<u8>> = corpus(target.name).unwrap().into_iter().map(|(_, input)| input).collect();
        let mut mutator = Mutator::new(SEED);
        for number in 0..MUTATED {
            let input = mutator.next(&seeds);
            let outcome = std::panic::catch_unwind(|| (target.run)(&input));
            assert!(outcome.is_ok(), "{}: input {number} failed: {:?}", target.name, String::from_utf8_lossy(&input));
        }
    }
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(targets.len(), TARGETS.len(), "a name is used twice");
    let all = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let corpora: BTreeSet<String> =
        std::fs::read_dir(all).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(targets, corpora);
    for name in targets {
        assert!(!corpus(&name).unwrap().is_empty(), "the corpus of {name} is empty");
    }
}
