//! A cpio archive in the "newc" form the kernel unpacks: owned by root, without times.

const PAGE_BYTES: usize = 4096;

/// Entries in the order they were added.
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    pub fn new() -> Self {
        Self { bytes: Vec::new(), entries: 0 }
    }

    pub fn directory(&mut self, name: &str) {
        self.entry(name, 0o040_755, 2, &[]);
    }

    pub fn file(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entry(name, 0o100_000 | mode, 1, content);
    }

    /// The whole archive, in whole pages. QEMU lets it begin on a page so that it ends in the last but one of memory, and SeaBIOS (1.16.3)
    /// puts the ACPI tables at the end of memory: with a last page that is not full the archive reaches into them, the tables are
    /// overwritten, and the guest hangs before it says a word.
    pub fn finish(mut self) -> Vec<u8> {
        self.entries = 0;
        self.entry("TRAILER!!!", 0, 1, &[]);
        self.bytes.resize(self.bytes.len().next_multiple_of(PAGE_BYTES), 0);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, links: u32, content: &[u8]) {
        let inode = self.entries;
        self.entries += 1;
        let fields = [inode, mode, 0, 0, links, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_start_on_four_bytes_and_the_trailer_is_followed_by_zeros_to_the_end_of_a_page() {
        let mut archive = Archive::new();
        archive.directory("dev");
        archive.file("init", 0o755, b"12345");
        let bytes = archive.finish();
        assert_eq!(bytes.len(), PAGE_BYTES);
        // Header 110 + "init\0" = 115, padded to 116, after the directory's 110 + "dev\0" padded to 116.
        assert_eq!(&bytes[116 + 116..116 + 121], b"12345");
        assert_eq!(&bytes[116 + 14..116 + 22], b"000081ed".as_slice().get(..8).unwrap_or_default());
        let trailer = bytes.windows(10).position(|window| window == b"TRAILER!!!").unwrap();
        assert!(bytes[trailer + 10..].iter().all(|byte| *byte == 0));
    }
}
