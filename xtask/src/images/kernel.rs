//! Kernel and initramfs: the package's vmlinuz unpacked to an ELF vmlinux, and a cpio with wrenn-init and modules.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::binaries::Binaries;
use super::cpio::Archive;
use super::debian::{Mirror, download_kernel};
use super::recipe::{Guest, files_below};
use super::{say, tool};

/// Bytes of an unpacked kernel; Debian's cloud kernel has about 50 MB.
const VMLINUX_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Bytes of an unpacked block in the legacy LZ4 form.
const BLOCK_BYTES: usize = 8 * 1024 * 1024;

/// Makes `vmlinux-{version}` and `initramfs-{version}` in `kernels`.
///
/// # Errors
/// The package cannot be unpacked, or holds no kernel.
pub fn make(
    guest: &Guest,
    mirror: &Mirror,
    binaries: &Binaries,
    cache: &Path,
    kernels: &Path,
    fresh: bool,
) -> Result<()> {
    fs::create_dir_all(kernels)?;
    let tree = cache.join(format!("kernel-{}-{}", guest.suite, guest.kernel_package));
    if fresh || !tree.join("boot").is_dir() {
        let package = download_kernel(mirror, &guest.suite, &guest.kernel_package, cache)?;
        let _ = fs::remove_dir_all(&tree);
        let unfinished = tree.with_extension("unfinished");
        let _ = fs::remove_dir_all(&unfinished);
        tool::output(tool::command("dpkg-deb").arg("-x").arg(&package).arg(&unfinished))?;
        fs::rename(&unfinished, &tree)?;
    }
    let (version, image) = find_image(&tree)?;
    let vmlinux = kernels.join(format!("vmlinux-{version}"));
    if fresh || !vmlinux.exists() {
        say(&format!("unpacking kernel {version}"));
        let packed = fs::read(&image).with_context(|| format!("read {}", image.display()))?;
        replace(&vmlinux, &unpack(&packed).with_context(|| format!("unpack {}", image.display()))?)?;
    }
    let archive = initramfs(guest, binaries, &tree, &version)?;
    replace(&kernels.join(format!("initramfs-{version}")), &archive)
}

fn initramfs(guest: &Guest, binaries: &Binaries, tree: &Path, version: &str) -> Result<Vec<u8>> {
    let modules = tree.join("lib/modules").join(version);
    let there = files_below(&modules)?;
    let mut archive = Archive::new();
    for place in ["dev", "proc", "root", "sys", "modules"] {
        archive.directory(place);
    }
    archive.file("init", 0o755, &fs::read(&binaries.wrenn_init)?);
    for (place, name) in guest.modules.iter().enumerate() {
        let same = |path: &&PathBuf| {
            path.file_name().is_some_and(|file| {
                file.to_string_lossy().replace('-', "_") == format!("{}.ko", name.replace('-', "_"))
            })
        };
        let Some(path) = there.iter().find(same) else {
            bail!("kernel {version} has no module {name} (built in, or packed: this suite is not supported)");
        };
        archive.file(&format!("modules/{place:02}-{name}.ko"), 0o644, &fs::read(modules.join(path))?);
    }
    Ok(archive.finish())
}

fn find_image(tree: &Path) -> Result<(String, PathBuf)> {
    for entry in fs::read_dir(tree.join("boot"))?.flatten() {
        if let Some(version) = entry.file_name().to_string_lossy().strip_prefix("vmlinuz-") {
            return Ok((version.to_owned(), entry.path()));
        }
    }
    bail!("the kernel package holds no boot/vmlinuz-*")
}

/// The ELF kernel inside a bzImage whose payload is packed as legacy LZ4.
fn unpack(image: &[u8]) -> Result<Vec<u8>> {
    let word = |at: usize| -> Result<usize> {
        let bytes = image.get(at..at + 4).context("the image is too short")?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
    };
    ensure!(image.get(0x202..0x206) == Some(b"HdrS"), "not a bzImage");
    let setup_sectors = match image[0x1f1] {
        0 => 4,
        count => usize::from(count),
    };
    let start = (setup_sectors + 1) * 512 + word(0x248)?;
    let payload = image.get(start..start + word(0x24c)?).context("the payload is cut off")?;
    ensure!(payload.starts_with(&[0x02, 0x21, 0x4c, 0x18]), "the payload is not packed as legacy LZ4");
    let mut out = Vec::with_capacity(64 * 1024 * 1024);
    let mut rest = &payload[4..];
    // The last four bytes are the unpacked size, put there for the boot loader.
    while rest.len() > 4 {
        let size = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        let Some(block) = rest.get(4..4 + size) else {
            break;
        };
        out.extend_from_slice(&lz4_flex::block::decompress(block, BLOCK_BYTES)?);
        ensure!(out.len() <= VMLINUX_BYTES_MAX, "the kernel is larger than {VMLINUX_BYTES_MAX} bytes");
        rest = &rest[4 + size..];
    }
    ensure!(out.starts_with(b"\x7fELF"), "the payload is not an ELF kernel");
    Ok(out)
}

/// Writes beside the target and renames, so that a reader never sees half a file.
///
/// # Errors
/// The file cannot be written or renamed.
pub fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let unfinished =
        path.with_file_name(format!(".{}.unfinished", path.file_name().unwrap_or_default().to_string_lossy()));
    fs::write(&unfinished, content).with_context(|| format!("write {}", unfinished.display()))?;
    fs::rename(&unfinished, path).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_is_none_or_is_cut_off_is_an_error() {
        let mut image = vec![0u8; 4096];
        assert!(unpack(&image).is_err());
        image[0x202..0x206].copy_from_slice(b"HdrS");
        assert!(unpack(&image).is_err(), "no payload");
        image[0x24c..0x250].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(unpack(&image).is_err(), "a payload longer than the file");
        assert!(unpack(&image[..100]).is_err());
    }
}
