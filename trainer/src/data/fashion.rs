//! Fashion-MNIST: 60,000 training and 10,000 test pictures of clothes, 28x28 grey, ten classes.
//!
//! By Zalando Research, under the MIT licence: <https://github.com/zalandoresearch/fashion-mnist>.

use std::env;
use std::fs;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};

use super::idx::{self, Array};
use super::{DataError, Dataset, Options, Part};

/// The name by which users ask for it.
pub const NAME: &str = "fashion-mnist";

/// The classes, in the order of their labels.
pub const CLASSES: [&str; 10] = [
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle-boot",
];

/// Where its authors publish it.
pub const ADDRESS: &str = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/";

/// Where Debian's package `dataset-fashion-mnist` installs it.
const DEBIAN: &str = "/usr/share/datasets/fashion-mnist";

/// More than twice the largest of the files: what is longer is something else.
const MAX_DOWNLOAD: u64 = 64 << 20;

/// A published file. The hash is that of the decompressed content: Debian compresses it anew.
struct Published {
    name: &'static str,
    sha256: &'static str,
}

const TRAIN: [Published; 2] = [
    Published {
        name: "train-images-idx3-ubyte.gz",
        sha256: "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    },
    Published {
        name: "train-labels-idx1-ubyte.gz",
        sha256: "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    },
];

const TEST: [Published; 2] = [
    Published {
        name: "t10k-images-idx3-ubyte.gz",
        sha256: "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    },
    Published {
        name: "t10k-labels-idx1-ubyte.gz",
        sha256: "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
];

/// The folder with the four files: Debian's, or else the cache, where they are downloaded to if they are missing.
///
/// # Errors
///
/// [`DataError::NoCache`] if there is nowhere to download to, and those of [`download`].
pub fn folder() -> Result<PathBuf, DataError> {
    let debian = Path::new(DEBIAN);
    if is_in(debian) {
        return Ok(debian.to_path_buf());
    }
    let cache = cache(
        env::var_os("XDG_CACHE_HOME").map(PathBuf::from),
        env::var_os("HOME").map(PathBuf::from),
    )?;
    if !is_in(&cache) {
        download(ADDRESS, &cache)?;
    }
    Ok(cache)
}

/// Downloads those of the four files that `folder` lacks from below the address `base`, over plain HTTP.
///
/// Each is checked against its published SHA-256 before it gets its name, so that what is there is whole.
///
/// # Errors
///
/// [`DataError::Download`] without a connection or when it breaks, [`DataError::WrongHash`] for other content,
/// [`DataError::Io`] if `folder` can not be written. None of them leaves a part of a file.
pub fn download(base: &str, folder: &Path) -> Result<(), DataError> {
    fs::create_dir_all(folder).map_err(DataError::io(folder))?;
    for published in TRAIN.iter().chain(&TEST) {
        let file = folder.join(published.name);
        if !file.is_file() {
            fetch(
                &format!("{}/{}", base.trim_end_matches('/'), published.name),
                &file,
                published.sha256,
            )?;
        }
    }
    Ok(())
}

/// Reads one part, and checks that its files are the published ones.
pub(super) fn load(part: Part, options: &Options) -> Result<Dataset, DataError> {
    let folder = folder()?;
    let [images, labels] = match part {
        Part::Train => TRAIN,
        Part::Test => TEST,
    };
    let pictures = checked(&folder, &images, idx::read_images)?;
    let labels = checked(&folder, &labels, idx::read_labels)?;
    idx::assemble(
        pictures,
        labels,
        CLASSES.map(str::to_owned).to_vec(),
        options,
    )
}

fn is_in(folder: &Path) -> bool {
    TRAIN
        .iter()
        .chain(&TEST)
        .all(|published| folder.join(published.name).is_file())
}

/// Relative paths there are to be ignored, says the XDG specification.
fn cache(xdg: Option<PathBuf>, home: Option<PathBuf>) -> Result<PathBuf, DataError> {
    let xdg = xdg.filter(|path| path.is_absolute());
    let home = home
        .filter(|path| path.is_absolute())
        .map(|home| home.join(".cache"));
    Ok(xdg
        .or(home)
        .ok_or(DataError::NoCache)?
        .join("espalier")
        .join(NAME))
}

fn checked(
    folder: &Path,
    published: &Published,
    read: impl Fn(&Path) -> Result<Array, DataError>,
) -> Result<Array, DataError> {
    let file = folder.join(published.name);
    let array = read(&file)?;
    let found = sha256(array.bytes.as_slice()).map_err(DataError::io(&file))?;
    same(&file.display().to_string(), found, published.sha256)?;
    Ok(array)
}

fn same(file: &str, found: String, wanted: &'static str) -> Result<(), DataError> {
    if found == wanted {
        return Ok(());
    }
    Err(DataError::WrongHash {
        file: file.to_owned(),
        found,
        wanted,
    })
}

fn sha256(mut content: impl Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut content, &mut hash)?;
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// Downloads one file; it gets its name when its decompressed content has the wanted hash.
fn fetch(address: &str, file: &Path, wanted: &'static str) -> Result<(), DataError> {
    let folder = file.parent().unwrap_or(file);
    let failed = |reason: String| DataError::Download {
        address: address.to_owned(),
        reason,
        folder: folder.to_path_buf(),
    };
    let mut beside = crate::file::beside(file).map_err(DataError::io(folder))?;
    let response = agent()
        .get(address)
        .call()
        .map_err(|error| failed(error.to_string()))?;
    let progress = progress(response.body().content_length());
    let body = response.into_body().into_reader().take(MAX_DOWNLOAD);
    io::copy(&mut progress.wrap_read(body), &mut beside)
        .map_err(|error| failed(error.to_string()))?;
    progress.finish_and_clear();

    let found = idx::open(beside.path())
        .and_then(sha256)
        .map_err(|error| failed(error.to_string()))?;
    same(address, found, wanted)?;
    crate::file::settle(beside, file).map_err(DataError::io(file))
}

/// No limit on the whole, which may be slow, but a server that falls silent is given up.
fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .timeout_connect(Some(Duration::from_secs(10)))
        .timeout_recv_response(Some(Duration::from_secs(30)))
        .timeout_per_read(Some(Duration::from_secs(30)));
    config.build().new_agent()
}

/// On a terminal only.
fn progress(length: Option<u64>) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(length.unwrap_or(MAX_DOWNLOAD)).with_message(NAME);
    match ProgressStyle::with_template("{msg} {bar:40} {bytes}/{total_bytes}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::{self, Source};
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::thread;

    const CONTENT: &[u8] = b"some clothes";
    const HASH: &str = "9476aeeb9bec063c149fc59866a1a8ea1509fbf0b7c7762ba08441ba7d184a7a";

    /// Serves one answer on the loopback and gives its address.
    fn serve(answer: Vec<u8>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            stream.write_all(&answer).unwrap();
        });
        format!("http://{address}/file")
    }

    fn answer(status: &str, length: usize, body: &[u8]) -> Vec<u8> {
        [
            format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")
                .as_bytes(),
            body,
        ]
        .concat()
    }

    /// What fetching gives, and the names left in the folder.
    fn fetched(address: &str) -> (Result<(), DataError>, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        let result = fetch(address, &folder.path().join("file.gz"), HASH);
        let names = fs::read_dir(folder.path()).unwrap();
        (
            result,
            names
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect(),
        )
    }

    #[test]
    fn a_good_file_gets_its_name() {
        let (result, names) = fetched(&serve(answer("200 OK", CONTENT.len(), CONTENT)));
        result.unwrap();
        assert_eq!(names, ["file.gz"]);
    }

    #[test]
    fn nothing_is_left_of_a_bad_one() {
        let closed = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let addresses = [
            serve(answer("200 OK", CONTENT.len(), b"SOME CLOTHES")),
            serve(answer("200 OK", CONTENT.len(), &CONTENT[..5])),
            serve(answer("404 Not Found", 0, b"")),
            serve([b"HTTP/1.1 200 OK\r\n\r\n", &CONTENT[..5]].concat()),
            serve(b"HTTP/1.1 2".to_vec()),
            serve(answer("200 OK", 4, &[0x1F, 0x8B, 8, 0])),
            format!("http://{closed}/file"),
        ];
        for (at, address) in addresses.iter().enumerate() {
            let (result, names) = fetched(address);
            let error = result.unwrap_err();
            let hash = matches!(error, DataError::WrongHash { .. });
            assert_eq!(hash, at == 0 || at == 3, "{error}");
            let message = error.to_string();
            assert!(message.starts_with("http://127.0.0.1:"), "{message}");
            assert!(
                hash || message.contains("`apt install dataset-fashion-mnist`"),
                "{message}"
            );
            assert!(names.is_empty(), "{names:?}");
        }
    }

    #[test]
    fn a_download_asks_below_its_base_address() {
        let folder = tempfile::tempdir().unwrap();
        let base = serve(answer("404 Not Found", 0, b""));
        let error = download(&base, &folder.path().join("new"))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with(&format!("{base}/train-images-idx3-ubyte.gz: ")),
            "{error}"
        );
        assert!(
            error.ends_with(&folder.path().join("new").display().to_string()),
            "{error}"
        );
    }

    #[test]
    fn the_cache_follows_the_environment() {
        let path = |text: &str| Some(PathBuf::from(text));
        let ending = "espalier/fashion-mnist";
        assert_eq!(
            cache(path("/x"), path("/home/me")).unwrap(),
            Path::new("/x").join(ending)
        );
        assert_eq!(
            cache(path("x"), path("/home/me")).unwrap(),
            Path::new("/home/me/.cache").join(ending)
        );
        assert_eq!(
            cache(None, path("/home/me")).unwrap(),
            Path::new("/home/me/.cache").join(ending)
        );
        assert!(matches!(cache(None, path("")), Err(DataError::NoCache)));
    }

    #[test]
    fn damaged_content_in_the_cache_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let labels = [&[0, 0, 8, 1, 0, 0, 0, 2][..], &[3, 4]].concat();
        fs::write(folder.path().join(TRAIN[1].name), labels).unwrap();
        let error = checked(folder.path(), &TRAIN[1], idx::read_labels)
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains(TRAIN[1].name) && error.contains("delete the file"),
            "{error}"
        );
    }

    /// The sample in `examples/fashion`, by the position in the file name, against the files it was drawn from.
    #[test]
    fn the_sample_shows_the_original_pictures() {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/fashion");
        for (part, each) in [(Part::Train, 20), (Part::Test, 100)] {
            let drawn =
                data::load(&Source::Folder(sample.clone()), part, &Options::default()).unwrap();
            assert_eq!(drawn.counts(), [each; 10]);
            if !is_in(Path::new(DEBIAN)) {
                continue;
            }
            let all = load(part, &Options::default()).unwrap();
            for (label, class) in CLASSES.iter().enumerate() {
                for file in fs::read_dir(sample.join(part.to_string()).join(class)).unwrap() {
                    let file = file.unwrap().path();
                    let original = &all.pictures[file
                        .file_stem()
                        .unwrap()
                        .to_str()
                        .unwrap()
                        .parse::<usize>()
                        .unwrap()];
                    assert_eq!(original.label, label);
                    assert_eq!(
                        original.pixels,
                        image::open(&file).unwrap().into_luma8().into_raw()
                    );
                }
            }
        }
    }

    #[test]
    fn the_installed_set_is_the_published_one() {
        if !is_in(Path::new(DEBIAN)) {
            return;
        }
        for (part, each) in [(Part::Train, 6000), (Part::Test, 1000)] {
            let data = load(part, &Options::default()).unwrap();
            assert_eq!(data.shape.to_string(), "28x28x1");
            assert_eq!(data.counts(), [each; 10]);
            assert_eq!(data.border(), crate::augment::Border::Fill([0; 3]));
        }
    }
}
