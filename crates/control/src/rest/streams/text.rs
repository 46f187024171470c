//! Text from bytes that come in pieces.

/// A character cut in two is put together again; bytes that are no UTF-8 become U+FFFD.
#[derive(Default)]
pub(super) struct Utf8Carry(Vec<u8>);

impl Utf8Carry {
    /// The text of what came so far and was not given out yet.
    pub(super) fn take(&mut self, bytes: Vec<u8>) -> String {
        let mut all = std::mem::take(&mut self.0);
        all.extend_from_slice(&bytes);
        let cut = all.len() - unfinished(&all);
        self.0 = all.split_off(cut);
        String::from_utf8_lossy(&all).into_owned()
    }

    /// Takes what an unfinished character left behind.
    pub(super) fn rest(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.0)).into_owned()
    }
}

/// Bytes at the end that begin a character without ending it.
fn unfinished(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let byte = bytes[bytes.len() - back];
        let needs = match byte {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => return 0,
        };
        return if needs > back { back } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_cut_at_any_byte_arrives_whole() {
        let text = "aé€😀z";
        for cut in 0..=text.len() {
            let mut carry = Utf8Carry::default();
            let mut got = carry.take(text.as_bytes()[..cut].to_vec());
            got.push_str(&carry.take(text.as_bytes()[cut..].to_vec()));
            got.push_str(&carry.rest());
            assert_eq!(got, text, "cut at {cut}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_do_not_get_stuck() {
        let mut carry = Utf8Carry::default();
        assert_eq!(carry.take(vec![0xff, b'a', 0x80]), "\u{fffd}a\u{fffd}");
        assert_eq!(carry.take(vec![0xe2, 0x82]), "");
        assert_eq!(carry.rest(), "\u{fffd}");
    }
}
