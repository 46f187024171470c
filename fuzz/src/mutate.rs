//! Mutations of inputs: small seeded changes that keep most of an input as it was, so that a parser gets deep into it.
//!
//! The sequence of inputs depends on the seed and the corpus only: a failure can be repeated.

/// Bytes of a mutated input at most: enough for every structure the parsers know, and quick to parse.
pub const INPUT_BYTES_MAX: usize = 64 * 1024;
/// Changes made to one input at most.
const CHANGES_MAX: usize = 8;
/// Bytes removed, repeated or taken over from another input by one change, at most.
const PIECE_BYTES_MAX: usize = 64;
/// Pieces of text and binary numbers at which parsers have special cases.
const TOKENS: [&[u8]; 24] = [
    b"\0",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\u0000",
    b":",
    b",",
    b"-1",
    b"0",
    b"1e309",
    b"18446744073709551616",
    b"9223372036854775807",
    b"null",
    b"../",
    b"/",
    b"%00",
    b"\xff\xff\xff\xff",
    b"\x80",
    b"\xf0\x9f\xa6\x80",
];

/// Mutator makes inputs out of a corpus.
#[derive(Debug)]
pub struct Mutator {
    state: u64,
}

impl Mutator {
    /// Mutator whose inputs depend on this seed.
    pub fn new(seed: u64) -> Self {
        // Zero is the one state an xorshift never leaves.
        Self { state: seed ^ 0x9e37_79b9_7f4a_7c15 | 1 }
    }

    /// Next input, made of one of these and with a piece of another now and then. An empty corpus gives inputs grown from nothing.
    pub fn next(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = self.pick(corpus).cloned().unwrap_or_default();
        for _ in 0..=self.below(CHANGES_MAX) {
            let other = self.pick(corpus).map_or(&[][..], Vec::as_slice);
            self.change(&mut input, other);
        }
        input.truncate(INPUT_BYTES_MAX);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        let position = self.below(input.len() + 1);
        let end = position + self.below(PIECE_BYTES_MAX.min(input.len() - position) + 1);
        match self.below(7) {
            0 => {
                let bit = self.below(8);
                if let Some(byte) = input.get_mut(position) {
                    *byte ^= 1 << bit;
                }
            }
            1 => {
                let byte = self.random() as u8;
                input.insert(position, byte);
            }
            2 => drop(input.drain(position..end)),
            3 => {
                let piece = input[position..end].to_vec();
                drop(input.splice(end..end, piece));
            }
            4 => {
                let token = TOKENS[self.below(TOKENS.len())];
                drop(input.splice(position..position, token.iter().copied()));
            }
            5 => {
                let begin = self.below(other.len() + 1);
                let length = self.below(PIECE_BYTES_MAX.min(other.len() - begin) + 1);
                drop(input.splice(position..end, other[begin..begin + length].iter().copied()));
            }
            _ => input.truncate(position),
        }
    }

    fn pick<'a>(&mut self, corpus: &'a [Vec<u8>]) -> Option<&'a Vec<u8>> {
        if corpus.is_empty() { None } else { corpus.get(self.below(corpus.len())) }
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.random() % bound.max(1) as u64) as usize
    }

    /// Next number of a xorshift64* generator: quick, and good enough to spread over positions.
    fn random(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_sequence_and_most_of_an_input_survives() {
        let corpus = vec![vec![b'a'; 1000], b"{\"id\": 1}".to_vec()];
        let inputs = |seed| {
            let mut mutator = Mutator::new(seed);
            (0..500).map(|_| mutator.next(&corpus)).collect::<Vec<_>>()
        };
        assert_eq!(inputs(7), inputs(7));
        assert_ne!(inputs(7), inputs(8));
        let changed = inputs(7).iter().filter(|input| !corpus.contains(input)).count();
        assert!(changed > 400, "{changed} of 500 differ from their origin");
        assert!(inputs(7).iter().any(|input| input.len() > 900), "not everything is cut short");
        assert!(inputs(7).iter().all(|input| input.len() <= INPUT_BYTES_MAX));
    }

    #[test]
    fn an_empty_corpus_is_no_end() {
        let mut mutator = Mutator::new(0);
        assert!((0..100).any(|_| !mutator.next(&[]).is_empty()));
    }
}
