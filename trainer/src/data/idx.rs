//! IDX files: the format of MNIST and its kin.
//!
//! Two zero bytes, a type (8: unsigned bytes), the number of dimensions, each dimension as a big-endian `u32`, then
//! the elements. Pictures are (count, height, width) or (count, height, width, channels), labels are (count).

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use image::{DynamicImage, GrayImage, RgbImage};
use rayon::prelude::*;

use super::fit::{MAX_SIDE, fit, pixels};
use super::{DataError, Dataset, Options, Part, Picture, PictureShape};

/// The most elements that a file may have: four times the largest in common use.
const MAX_BYTES: usize = 1 << 31;

/// Optional file of class names beside the IDX files, one a line, the first for label 0.
const CLASS_NAMES: &str = "classes.txt";

/// A file read into memory and checked against its header.
pub(super) struct Array {
    file: PathBuf,
    dimensions: Vec<usize>,
    /// The header too: known files are recognised by the hash of all.
    pub(super) bytes: Vec<u8>,
}

impl Array {
    /// Offset of the first element.
    fn start(&self) -> usize {
        4 + 4 * self.dimensions.len()
    }

    fn elements(&self) -> &[u8] {
        self.bytes.get(self.start()..).unwrap_or_default()
    }

    fn count(&self) -> usize {
        self.dimensions.first().copied().unwrap_or_default()
    }
}

/// Whether a folder has an IDX file under one of its usual names.
pub(super) fn is_in(folder: &Path) -> bool {
    [Part::Train, Part::Test].iter().any(|&part| {
        find(folder, part, "images")
            .or(find(folder, part, "labels"))
            .is_some()
    })
}

/// Reads one part. Classes are named by `classes.txt` if it is there, and else by their numbers, from 0 to the largest
/// label of the train part, or of the test part where it stands alone.
pub(super) fn load(folder: &Path, part: Part, options: &Options) -> Result<Dataset, DataError> {
    let (images, labels) = match (find(folder, part, "images"), find(folder, part, "labels")) {
        (None, None) => {
            return Err(DataError::NoPart {
                folder: folder.to_path_buf(),
                part,
            });
        }
        (Some(images), Some(labels)) => (read_images(&images)?, read_labels(&labels)?),
        (None, _) => return Err(missing(folder, part, "images-idx3-ubyte")),
        (_, None) => return Err(missing(folder, part, "labels-idx1-ubyte")),
    };
    let classes = match class_names(folder)? {
        Some(names) => names,
        None => match find(folder, Part::Train, "labels").filter(|_| part == Part::Test) {
            Some(train) => numbers(&read_labels(&train)?),
            None => numbers(&labels),
        },
    };
    assemble(images, labels, classes, options)
}

fn missing(folder: &Path, part: Part, ending: &str) -> DataError {
    DataError::NoIdxFile {
        folder: folder.to_path_buf(),
        name: format!("{}-{ending}", prefix(part)),
    }
}

fn prefix(part: Part) -> &'static str {
    match part {
        Part::Train => "train",
        Part::Test => "t10k",
    }
}

/// The names in use differ in the character before `idx` and in the compression.
fn find(folder: &Path, part: Part, kind: &str) -> Option<PathBuf> {
    let dimensions: &[u8] = if kind == "labels" { &[1] } else { &[3, 4] };
    let names = dimensions.iter().flat_map(|count| {
        ["-", "."]
            .map(|dash| format!("{}-{kind}{dash}idx{count}-ubyte", prefix(part)))
            .into_iter()
    });
    names
        .flat_map(|name| [folder.join(&name), folder.join(name + ".gz")])
        .find(|path| path.is_file())
}

fn class_names(folder: &Path) -> Result<Option<Vec<String>>, DataError> {
    let file = folder.join(CLASS_NAMES);
    if !file.is_file() {
        return Ok(None);
    }
    let text = fs::read_to_string(&file).map_err(DataError::io(&file))?;
    Ok(Some(
        text.lines()
            .map(|line| line.trim().to_owned())
            .filter(|line| !line.is_empty())
            .collect(),
    ))
}

fn numbers(labels: &Array) -> Vec<String> {
    let last = labels.elements().iter().max().copied().unwrap_or_default();
    (0..=last).map(|label| label.to_string()).collect()
}

/// Pairs pictures with labels.
pub(super) fn assemble(
    images: Array,
    labels: Array,
    classes: Vec<String>,
    options: &Options,
) -> Result<Dataset, DataError> {
    if images.count() != labels.count() {
        let (pictures, count) = (images.count(), labels.count());
        let (pictures_file, labels_file) = (images.file, labels.file);
        return Err(DataError::IdxCount {
            pictures_file,
            pictures,
            labels_file,
            labels: count,
        });
    }
    if let [class] = classes.as_slice() {
        return Err(DataError::OneClass {
            folder: labels.file,
            class: class.clone(),
        });
    }
    check_labels(&labels, classes.len())?;
    let (shape, all) = shaped(&images, options)?;
    let pictures = all.into_iter().zip(labels.elements());
    let pictures = pictures
        .map(|(pixels, &label)| Picture {
            pixels,
            label: label.into(),
        })
        .collect();
    Ok(Dataset {
        shape,
        classes,
        pictures,
    })
}

fn check_labels(labels: &Array, classes: usize) -> Result<(), DataError> {
    match labels
        .elements()
        .iter()
        .position(|&label| usize::from(label) >= classes)
    {
        None => Ok(()),
        Some(at) => Err(DataError::IdxLabel {
            file: labels.file.clone(),
            offset: labels.start() + at,
            label: labels
                .elements()
                .get(at)
                .copied()
                .unwrap_or_default()
                .into(),
            classes,
        }),
    }
}

/// The pixels of each picture in the shape that the options ask for.
fn shaped(images: &Array, options: &Options) -> Result<(PictureShape, Vec<Vec<u8>>), DataError> {
    let stored = stored_shape(images)?;
    let size = (stored.height, stored.width);
    let wanted = options.size.unwrap_or(size);
    let channels = options.channels.unwrap_or(stored.channels);
    let shape = PictureShape {
        height: wanted.0,
        width: wanted.1,
        channels,
    };

    let each = images.elements().par_chunks_exact(stored.bytes());
    let pictures: Option<Vec<_>> = if shape == stored {
        Some(each.map(<[u8]>::to_vec).collect())
    } else {
        each.map(|raw| {
            Some(pixels(
                fit(picture(raw, stored)?, wanted, options.resize)?,
                channels,
            ))
        })
        .collect()
    };
    let wrong = || DataError::WrongSize {
        file: images.file.clone(),
        size,
        wanted,
    };
    Ok((shape, pictures.ok_or_else(wrong)?))
}

fn picture(
    raw: &[u8],
    PictureShape {
        height,
        width,
        channels,
    }: PictureShape,
) -> Option<DynamicImage> {
    let (height, width, raw) = (
        u32::try_from(height).ok()?,
        u32::try_from(width).ok()?,
        raw.to_vec(),
    );
    match channels {
        1 => GrayImage::from_raw(width, height, raw).map(DynamicImage::from),
        _ => RgbImage::from_raw(width, height, raw).map(DynamicImage::from),
    }
}

fn stored_shape(images: &Array) -> Result<PictureShape, DataError> {
    let (height, width, channels) = match *images.dimensions.as_slice() {
        [_, height, width] => (height, width, 1),
        [_, height, width, channels] => (height, width, channels),
        _ => (0, 0, 0), // Not reached: `read_images` takes three or four.
    };
    let wrong = |offset, what, value| {
        Err(DataError::IdxHeader {
            file: images.file.clone(),
            offset,
            what,
            value,
        })
    };
    match (height, width, channels) {
        _ if !(1..=MAX_SIDE).contains(&height) => wrong(8, "the height", height),
        _ if !(1..=MAX_SIDE).contains(&width) => wrong(12, "the width", width),
        (.., 1 | 3) => Ok(PictureShape {
            height,
            width,
            channels,
        }),
        _ => wrong(16, "the number of channels", channels),
    }
}

/// Reads a file of pictures.
pub(super) fn read_images(file: &Path) -> Result<Array, DataError> {
    let images = read(file, 3..=4, "0x00000803 or 0x00000804")?;
    stored_shape(&images).map(|_| images)
}

/// Reads a file of labels.
pub(super) fn read_labels(file: &Path) -> Result<Array, DataError> {
    read(file, 1..=1, "0x00000801")
}

/// Reads a file and checks its length. Memory grows with what the file holds, not with what its header claims.
fn read(
    file: &Path,
    dimensions: RangeInclusive<u8>,
    wanted: &'static str,
) -> Result<Array, DataError> {
    let mut source = open(file).map_err(DataError::io(file))?;
    let mut bytes = Vec::new();
    take(&mut source, file, &mut bytes, 4)?;
    let count = match *bytes.as_slice() {
        [0, 0, 8, count] if dimensions.contains(&count) => count,
        _ => {
            let found = bytes
                .iter()
                .fold(0, |number, &byte| number << 8 | u32::from(byte));
            return Err(DataError::IdxMagic {
                file: file.to_path_buf(),
                found,
                wanted,
            });
        }
    };
    take(&mut source, file, &mut bytes, 4 * u64::from(count))?;
    let dimensions = dimensions_in(&bytes);
    let length = checked_length(file, &dimensions)?;
    take(&mut source, file, &mut bytes, length as u64)?;
    // At the end, gzip compares its checksum too.
    match source.read(&mut [0]).map_err(DataError::io(file))? {
        0 => Ok(Array {
            file: file.to_path_buf(),
            dimensions,
            bytes,
        }),
        _ => Err(DataError::IdxLong {
            file: file.to_path_buf(),
            offset: bytes.len(),
        }),
    }
}

fn dimensions_in(header: &[u8]) -> Vec<usize> {
    let words = header.chunks_exact(4).skip(1);
    words
        .map(|word| {
            word.iter()
                .fold(0, |number, &byte| number << 8 | usize::from(byte))
        })
        .collect()
}

/// How many elements the dimensions make, if that can be meant.
fn checked_length(file: &Path, dimensions: &[usize]) -> Result<usize, DataError> {
    if dimensions.first() == Some(&0) {
        return Err(DataError::NoPictures {
            path: file.to_path_buf(),
        });
    }
    let mut length = 1usize;
    for (at, &value) in dimensions.iter().enumerate() {
        let product = length
            .checked_mul(value)
            .filter(|&length| length <= MAX_BYTES);
        length = product.ok_or_else(|| DataError::IdxHeader {
            file: file.to_path_buf(),
            offset: 4 + 4 * at,
            what: "a dimension",
            value,
        })?;
    }
    Ok(length)
}

/// Appends exactly `count` bytes.
fn take(
    source: &mut impl Read,
    file: &Path,
    bytes: &mut Vec<u8>,
    count: u64,
) -> Result<(), DataError> {
    let wanted = bytes.len() + count as usize;
    let result = source.take(count).read_to_end(bytes);
    match result {
        // A gzip stream that is cut off says so itself.
        Err(reason) if reason.kind() != io::ErrorKind::UnexpectedEof => {
            Err(DataError::io(file)(reason))
        }
        _ if bytes.len() < wanted => Err(DataError::IdxShort {
            file: file.to_path_buf(),
            offset: bytes.len(),
            wanted,
        }),
        _ => Ok(()),
    }
}

/// Opens a file, through gzip if it begins like one: names do not always tell.
pub(super) fn open(file: &Path) -> io::Result<Box<dyn Read>> {
    let mut reader = BufReader::with_capacity(1 << 16, File::open(file)?);
    let zipped = reader.fill_buf()?.starts_with(&[0x1F, 0x8B]);
    Ok(if zipped {
        Box::new(MultiGzDecoder::new(reader))
    } else {
        Box::new(reader)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::Resize;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;
    use tempfile::TempDir;

    fn idx(dimensions: &[u32], elements: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, dimensions.len() as u8];
        bytes.extend(
            dimensions
                .iter()
                .flat_map(|dimension| dimension.to_be_bytes()),
        );
        bytes.extend(elements);
        bytes
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    const IMAGES: &str = "train-images-idx3-ubyte";
    const LABELS: &str = "train-labels-idx1-ubyte";

    /// Three pictures of 2x3x1, labelled 2, 0, 1.
    fn three() -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        put(
            &folder,
            IMAGES,
            &idx(&[3, 2, 3], &(0..18).collect::<Vec<u8>>()),
        );
        put(&folder, LABELS, &idx(&[3], &[2, 0, 1]));
        folder
    }

    fn put(folder: &TempDir, name: &str, bytes: &[u8]) {
        fs::write(folder.path().join(name), bytes).unwrap();
    }

    fn train(folder: &TempDir) -> Result<Dataset, DataError> {
        load(folder.path(), Part::Train, &Options::default())
    }

    fn train_error(folder: &TempDir) -> String {
        train(folder).unwrap_err().to_string()
    }

    #[test]
    fn pictures_and_labels_pair_up() {
        let data = train(&three()).unwrap();
        assert_eq!(
            data.shape,
            PictureShape {
                height: 2,
                width: 3,
                channels: 1
            }
        );
        assert_eq!(data.classes, ["0", "1", "2"]);
        assert_eq!(
            data.pictures[1],
            Picture {
                pixels: (6..12).collect(),
                label: 0
            }
        );
    }

    #[test]
    fn names_and_compression_vary() {
        let plain = train(&three()).unwrap();
        let folder = three();
        for (old, new) in [
            (IMAGES, "train-images.idx3-ubyte.gz"),
            (LABELS, "train-labels.idx1-ubyte"),
        ] {
            let bytes = fs::read(folder.path().join(old)).unwrap();
            fs::remove_file(folder.path().join(old)).unwrap();
            put(
                &folder,
                new,
                &if new.ends_with("gz") {
                    gzip(&bytes)
                } else {
                    bytes
                },
            );
        }
        assert_eq!(train(&folder).unwrap(), plain);
    }

    #[test]
    fn the_test_part_has_the_classes_of_the_train_part() {
        let folder = three();
        let test = || load(folder.path(), Part::Test, &Options::default());
        assert!(matches!(
            test(),
            Err(DataError::NoPart {
                part: Part::Test,
                ..
            })
        ));
        put(
            &folder,
            "t10k-images-idx3-ubyte",
            &idx(&[2, 2, 3], &[0; 12]),
        );
        assert!(
            test()
                .unwrap_err()
                .to_string()
                .contains("no t10k-labels-idx1-ubyte[.gz]")
        );
        put(&folder, "t10k-labels-idx1-ubyte", &idx(&[2], &[0, 1]));
        assert_eq!(test().unwrap().classes, ["0", "1", "2"]);
        put(&folder, "t10k-labels-idx1-ubyte", &idx(&[2], &[0, 3]));
        let error = test().unwrap_err().to_string();
        assert!(
            error.contains("offset 9: label 3, and there are 3 classes"),
            "{error}"
        );
    }

    #[test]
    fn classes_may_be_named() {
        let folder = three();
        put(&folder, CLASS_NAMES, b"cat\ndog\r\nbird\n");
        assert_eq!(train(&folder).unwrap().classes, ["cat", "dog", "bird"]);
        put(&folder, CLASS_NAMES, b"cat\ndog\n");
        assert!(matches!(
            train(&folder),
            Err(DataError::IdxLabel {
                offset: 8,
                label: 2,
                classes: 2,
                ..
            })
        ));
    }

    #[test]
    fn four_dimensions_are_colour() {
        let folder = three();
        fs::remove_file(folder.path().join(IMAGES)).unwrap();
        put(
            &folder,
            "train-images-idx4-ubyte",
            &idx(&[3, 1, 2, 3], &(0..18).collect::<Vec<u8>>()),
        );
        let data = train(&folder).unwrap();
        assert_eq!(
            data.shape,
            PictureShape {
                height: 1,
                width: 2,
                channels: 3
            }
        );
        assert_eq!(data.pictures[2].pixels, (12..18).collect::<Vec<u8>>());
        put(
            &folder,
            "train-images-idx4-ubyte",
            &idx(&[3, 1, 3, 2], &[0; 18]),
        );
        assert!(train_error(&folder).contains("offset 16: the number of channels can not be 2"));
    }

    #[test]
    fn pictures_take_the_shape_asked_for() {
        let folder = three();
        let shape = |resize| {
            load(
                folder.path(),
                Part::Train,
                &Options {
                    size: Some((4, 4)),
                    channels: Some(3),
                    resize,
                },
            )
        };
        assert!(matches!(
            shape(Resize::Exact),
            Err(DataError::WrongSize {
                size: (2, 3),
                wanted: (4, 4),
                ..
            })
        ));
        let data = shape(Resize::Crop).unwrap();
        assert_eq!(
            data.shape,
            PictureShape {
                height: 4,
                width: 4,
                channels: 3
            }
        );
        assert!(
            data.pictures
                .iter()
                .all(|picture| picture.pixels.len() == 48)
        );
    }

    #[test]
    fn damage_is_named_with_its_offset() {
        let elements = [0; 18];
        let good = idx(&[3, 2, 3], &elements);
        let cases: [(Vec<u8>, &str); 12] = [
            (vec![], "offset 0: the file ends, its header promises 4"),
            (
                good[..10].to_vec(),
                "offset 10: the file ends, its header promises 16",
            ),
            (
                good[..20].to_vec(),
                "offset 20: the file ends, its header promises 34",
            ),
            (
                [&good[..], &[7]].concat(),
                "offset 34: bytes follow the last element",
            ),
            (gzip(&good[..20]), "offset 20: the file ends"),
            (
                gzip(&good)[..20].to_vec(),
                "the file ends, its header promises",
            ),
            (
                b"PK\x03\x04and more".to_vec(),
                "offset 0: magic number 0x504b0304",
            ),
            (
                idx(&[18], &elements),
                "offset 0: magic number 0x00000801 where 0x00000803 or 0x00000804 belongs",
            ),
            (idx(&[3, 0, 3], &[]), "offset 8: the height can not be 0"),
            (
                idx(&[1, 1, 5000], &[0; 5000]),
                "offset 12: the width can not be 5000",
            ),
            (
                idx(&[u32::MAX, u32::MAX, u32::MAX], &elements),
                "offset 4: a dimension can not be 4294967295",
            ),
            (idx(&[0, 2, 3], &[]), "no pictures"),
        ];
        for (bytes, message) in cases {
            let folder = three();
            put(&folder, IMAGES, &bytes);
            let error = train_error(&folder);
            assert!(
                error.contains(message) && error.contains(IMAGES),
                "{message}: {error}"
            );
        }
    }

    #[test]
    fn a_large_claim_does_not_take_memory() {
        let folder = three();
        put(&folder, IMAGES, &idx(&[200_000, 100, 100], &[0; 18]));
        assert!(
            train_error(&folder)
                .contains("offset 34: the file ends, its header promises 2000000016")
        );
    }

    #[test]
    fn a_flipped_bit_in_gzip_is_found() {
        let folder = three();
        let mut bytes = gzip(&idx(&[3, 2, 3], &[0; 18]));
        let checksum = bytes.len() - 8;
        bytes[checksum] ^= 1;
        put(&folder, IMAGES, &bytes);
        assert!(matches!(train(&folder), Err(DataError::Io { .. })));
    }

    #[test]
    fn files_of_different_sets_do_not_pair() {
        let folder = three();
        put(&folder, LABELS, &idx(&[2], &[0, 1]));
        let error = train_error(&folder);
        assert!(
            error.contains("offset 4: 2 labels for the 3 pictures in"),
            "{error}"
        );
        put(&folder, LABELS, &idx(&[3], &[0, 0, 0]));
        assert!(matches!(train(&folder), Err(DataError::OneClass { .. })));
    }
}
