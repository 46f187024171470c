//! Root file systems: packages by mmdebstrap, our programs on top, packed by mkfs.ext4 without mounting.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::binaries::Binaries;
use super::debian::Mirror;
use super::kernel::replace;
use super::recipe::{Image, files_below};
use super::{say, tool};

/// image.json beside the disk.
#[derive(Serialize)]
struct Manifest<'a> {
    name: &'a str,
    /// SHA-256 of the disk, in hex.
    version: String,
    /// Apparent size of the disk.
    size_bytes: u64,
    default_user: &'a str,
    default_workdir: &'a str,
    envd_version: &'a str,
    packages: BTreeMap<String, String>,
}

/// Makes `{images_out}/{name}/rootfs.ext4` and image.json from `{recipes}/{name}`.
///
/// # Errors
/// A tool fails, or the image cannot be written.
pub fn make(
    name: &str,
    recipes: &Path,
    mirror: &Mirror,
    binaries: &Binaries,
    cache: &Path,
    images_out: &Path,
    fresh: bool,
) -> Result<()> {
    let directory = recipes.join(name);
    let (recipe, key) = Image::read(&directory)?;
    let tree = cache.join(format!("{name}-{key}"));
    if fresh || !tree.join("etc/passwd").exists() {
        install_packages(&recipe, mirror, &directory, &tree, cache)?;
    }
    let out = images_out.join(name);
    fs::create_dir_all(&out)?;
    for program in [&binaries.envd, &binaries.wrenn_init] {
        let target = tree.join("usr/local/bin").join(program.file_name().context("a program has a name")?);
        fs::copy(program, &target).with_context(|| format!("copy to {}", target.display()))?;
        fs::set_permissions(&target, PermissionsExt::from_mode(0o755))?;
        chown(&target, Some(0), Some(0))?;
    }
    let packages = packages(&tree)?;
    say(&format!("packing {name} ({} packages)", packages.len()));
    let unfinished = out.join(".rootfs.ext4.unfinished");
    pack(&recipe, &tree, &unfinished)?;
    let version = hash(&unfinished)?;
    let manifest = Manifest {
        name,
        version: version.clone(),
        size_bytes: fs::metadata(&unfinished)?.len(),
        default_user: &recipe.default_user,
        default_workdir: &recipe.default_workdir,
        envd_version: env!("CARGO_PKG_VERSION"),
        packages,
    };
    fs::rename(&unfinished, out.join("rootfs.ext4"))?;
    replace(&out.join("image.json"), &serde_json::to_vec_pretty(&manifest)?)?;
    say(&format!("{name} is version {}", &version[..16]));
    Ok(())
}

fn install_packages(recipe: &Image, mirror: &Mirror, directory: &Path, tree: &Path, cache: &Path) -> Result<()> {
    say(&format!("installing {} packages of {} (a minute)", recipe.packages.len(), recipe.suite));
    let unfinished = cache.join("tree.unfinished");
    for old in [&unfinished, &tree.to_owned()] {
        if old.exists() {
            fs::remove_dir_all(old).with_context(|| format!("remove {}", old.display()))?;
        }
    }
    let user = &recipe.default_user;
    let mut command = tool::command("mmdebstrap");
    command
        .env("SOURCE_DATE_EPOCH", recipe.epoch.to_string())
        .args(["--mode=root", "--variant=minbase", "--format=directory", "--quiet"])
        .arg(format!("--include={}", recipe.packages.join(",")))
        .args(["--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/doc/*"])
        .args(["--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-include=/usr/share/doc/*/copyright"])
        .arg(format!("--customize-hook=chroot \"$1\" useradd --uid 1000 --create-home --shell /bin/bash {user}"))
        .arg(&recipe.suite)
        .arg(&unfinished)
        .args(mirror.sources(&recipe.suite));
    tool::output(&mut command)?;
    for file in files_below(&directory.join("files"))? {
        let target = unfinished.join(&file);
        let _ = fs::remove_file(&target);
        fs::create_dir_all(target.parent().context("a file lies in a directory")?)?;
        fs::copy(directory.join("files").join(&file), &target)?;
        chown(&target, Some(0), Some(0))?;
        let mode = if file.starts_with("etc/sudoers.d") { 0o440 } else { 0o644 };
        fs::set_permissions(&target, PermissionsExt::from_mode(mode))?;
    }
    // Holds times and inode numbers of this machine, and is made anew when needed.
    let _ = fs::remove_file(unfinished.join("var/cache/ldconfig/aux-cache"));
    fs::rename(&unfinished, tree).with_context(|| format!("keep {}", tree.display()))
}

/// Name and version of every installed package.
fn packages(tree: &Path) -> Result<BTreeMap<String, String>> {
    let database = tree.join("var/lib/dpkg");
    let shown = tool::text(
        tool::command("dpkg-query")
            .arg(format!("--admindir={}", database.display()))
            .args(["--show", "--showformat=${Package} ${Version}\n"]),
    )?;
    let pairs = shown.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs.map(|(name, version)| (name.to_owned(), version.to_owned())).collect())
}

/// Packs `tree` into an ext4 file whose bytes depend on nothing but the tree's content.
fn pack(recipe: &Image, tree: &Path, image: &Path) -> Result<()> {
    let epoch = recipe.epoch.to_string();
    let (when, file) = (format!("@{epoch}"), tree.to_string_lossy().into_owned());
    tool::output(
        tool::command("find").args([&file, "-newermt", &when, "-exec", "touch", "-h", "-d", &when, "{}", "+"]),
    )?;
    let _ = fs::remove_file(image);
    File::create(image)?.set_len(recipe.size_mib * 1024 * 1024)?;
    tool::output(
        tool::command("mkfs.ext4")
            .env("E2FSPROGS_FAKE_TIME", &epoch)
            .args(["-q", "-F", "-b", "4096", "-L", "wrenn-root", "-m", "0", "-U", &recipe.uuid, "-J", "size=32", "-E"])
            .arg(format!("hash_seed={},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=1", recipe.uuid))
            .arg("-d")
            .arg(tree)
            .arg(image),
    )?;
    fix_times(image, &epoch)
}

/// mkfs.ext4 copies access and change times of the tree, which no one can set: they are written into the image.
fn fix_times(image: &Path, epoch: &str) -> Result<()> {
    let header = tool::text(tool::command("dumpe2fs").arg("-h").arg(image))?;
    let field = |name: &str| -> Result<u64> {
        let line = header
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .with_context(|| format!("dumpe2fs shows no {name}"))?;
        line.trim().parse().with_context(|| format!("dumpe2fs shows an odd {name}"))
    };
    let used = field("Inode count:")? - field("Free inodes:")?;
    let script = image.with_extension("times");
    let mut text = std::io::BufWriter::new(File::create(&script)?);
    // mkfs gives inodes out in order, so the used ones are the first.
    for inode in 11..=used {
        writeln!(text, "set_inode_field <{inode}> atime @{epoch}\nset_inode_field <{inode}> ctime @{epoch}")?;
    }
    writeln!(text, "set_inode_field <2> atime @{epoch}\nset_inode_field <2> ctime @{epoch}")?;
    text.into_inner().context("write the times")?;
    let result = tool::text(
        tool::command("debugfs").env("E2FSPROGS_FAKE_TIME", epoch).arg("-w").arg("-f").arg(&script).arg(image),
    );
    let _ = fs::remove_file(&script);
    let said = result?;
    ensure!(!said.contains("set_inode_field:"), "debugfs: {said}");
    Ok(())
}

/// By a tool, because it goes through gigabytes of zeroes ten times faster than an unoptimised xtask.
fn hash(path: &Path) -> Result<String> {
    let quick = tool::text(tool::command("openssl").args(["dgst", "-sha256", "-r"]).arg(path));
    let line = quick.or_else(|_| tool::text(tool::command("sha256sum").arg(path)))?;
    let hash = line.split_whitespace().next().unwrap_or_default();
    ensure!(hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()), "odd answer of the hash tool: {line}");
    Ok(hash.to_owned())
}
