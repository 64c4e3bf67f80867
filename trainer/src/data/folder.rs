//! A folder of class folders with pictures.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Rgb};
use rayon::prelude::*;

use super::fit::{MAX_SIDE, fit, pixels, size_of};
use super::{DataError, Dataset, Options, Part, Picture, PictureShape};

/// A class folder's name and its pictures' files, sorted.
type Class = (String, Vec<PathBuf>);

/// Reads one part; `root` itself is the train part if it has no `train` or `test` folder of class folders.
///
/// Classes and files are in the order of their names. Hidden files are passed over, other files too, with a warning.
pub(super) fn load(root: &Path, part: Part, options: &Options) -> Result<Dataset, DataError> {
    if !root.is_dir() {
        return Err(DataError::NoSource {
            path: root.to_path_buf(),
        });
    }
    let classes = class_files(&part_folder(root, part)?)?;
    let files: Vec<(usize, &PathBuf)> = classes
        .iter()
        .enumerate()
        .flat_map(|(label, (_, files))| files.iter().map(move |file| (label, file)))
        .collect();
    // Gathered first and then searched in order: whichever thread fails first, the same file is named.
    let decoded: Vec<_> = files
        .par_iter()
        .map(|(_, file)| decode(file, options))
        .collect();
    let decoded = decoded.into_iter().collect::<Result<Vec<_>, _>>()?;

    let shape = common_shape(root, &files, &decoded, options)?;
    let pictures = files.iter().zip(decoded);
    let pictures = pictures.map(|(&(label, _), picture)| Picture {
        pixels: pixels(picture, shape.channels),
        label,
    });
    let pictures = pictures.collect();
    Ok(Dataset {
        shape,
        classes: classes.into_iter().map(|(name, _)| name).collect(),
        pictures,
    })
}

/// The file of each picture, in the order of [`load`].
pub(super) fn files(root: &Path, part: Part) -> Result<Vec<PathBuf>, DataError> {
    let classes = class_files(&part_folder(root, part)?)?;
    Ok(classes.into_iter().flat_map(|(_, files)| files).collect())
}

/// `train` and `test` are parts if one of them holds folders; otherwise they are classes like any other.
fn part_folder(root: &Path, part: Part) -> Result<PathBuf, DataError> {
    let [train, test] = [Part::Train, Part::Test].map(|part| root.join(part.to_string()));
    let (train_classes, test_classes) = (folders(&train)?, folders(&test)?);
    let (folder, classes) = match part {
        Part::Train if train_classes.is_empty() && test_classes.is_empty() => {
            // Empty folders for the parts are no classes, unless there are others beside them.
            let are_parts = [&train, &test].iter().all(|part| part.is_dir())
                && folders(root)?.len() == 2
                && entries(&train)?.is_empty();
            return match are_parts {
                true => Err(DataError::NoClasses { folder: train }),
                false => Ok(root.to_path_buf()),
            };
        }
        Part::Train => (train, &train_classes),
        Part::Test => (test, &test_classes),
    };
    if classes.is_empty() {
        if folder.is_dir() && entries(&folder)?.iter().any(|path| is_picture(path)) {
            return Err(DataError::NoClasses { folder });
        }
        return Err(DataError::NoPart {
            folder: root.to_path_buf(),
            part,
        });
    }
    if !train_classes.is_empty() && !test_classes.is_empty() {
        same_classes(root, &train_classes, &test_classes)?;
    }
    Ok(folder)
}

fn same_classes(root: &Path, train: &[PathBuf], test: &[PathBuf]) -> Result<(), DataError> {
    let names = |folders: &[PathBuf]| {
        folders
            .iter()
            .map(|folder| class_name(folder))
            .collect::<Result<Vec<_>, _>>()
    };
    let (train, test) = (names(train)?, names(test)?);
    if train == test {
        return Ok(());
    }
    let only = |these: &[String], those: &[String]| {
        these
            .iter()
            .filter(|n| !those.contains(n))
            .cloned()
            .collect()
    };
    let (only_train, only_test) = (only(&train, &test), only(&test, &train));
    Err(DataError::ClassesDiffer {
        folder: root.to_path_buf(),
        only_train,
        only_test,
    })
}

fn class_files(folder: &Path) -> Result<Vec<Class>, DataError> {
    let mut classes = Vec::new();
    for path in folders(folder)? {
        classes.push((class_name(&path)?, picture_files(&path)?));
    }
    match classes.as_slice() {
        [] => Err(DataError::NoClasses {
            folder: folder.to_path_buf(),
        }),
        [(class, _)] => Err(DataError::OneClass {
            folder: folder.to_path_buf(),
            class: class.clone(),
        }),
        _ => Ok(classes),
    }
}

fn class_name(folder: &Path) -> Result<String, DataError> {
    let name = folder.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned).ok_or_else(|| DataError::BadName {
        path: folder.to_path_buf(),
    })
}

fn picture_files(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let (files, others): (Vec<_>, Vec<_>) = entries(folder)?
        .into_iter()
        .partition(|path| is_picture(path));
    if !others.is_empty() {
        tracing::warn!(
            "{}: {} entries passed over, not PNG, JPEG or BMP files",
            folder.display(),
            others.len()
        );
    }
    if files.is_empty() {
        return Err(DataError::NoPictures {
            path: folder.to_path_buf(),
        });
    }
    Ok(files)
}

fn is_picture(path: &Path) -> bool {
    let format = ImageFormat::from_path(path);
    matches!(
        format,
        Ok(ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::Bmp)
    ) && path.is_file()
}

/// The folders in a folder, sorted by name; none if it does not exist.
fn folders(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    Ok(entries(folder)?
        .into_iter()
        .filter(|path| path.is_dir())
        .collect())
}

/// What a folder holds, sorted by name, without hidden files.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(DataError::io(folder))? {
        let entry = entry.map_err(DataError::io(folder))?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

/// Reads one picture as 8 bits, grey or colour as it looks, upright, and in the wanted size if there is one.
pub(super) fn decode(file: &Path, options: &Options) -> Result<DynamicImage, DataError> {
    let bytes = fs::read(file).map_err(DataError::io(file))?;
    let picture = decode_bytes(&bytes).map_err(|reason| DataError::BadPicture {
        file: file.to_path_buf(),
        reason,
    })?;
    // Here and not later: a hundred photographs in full size need gigabytes.
    let size = size_of(&picture);
    let Some(wanted) = options.size else {
        return match size.0.max(size.1) {
            0..=MAX_SIDE => Ok(picture),
            _ => Err(DataError::TooLarge {
                file: file.to_path_buf(),
                size,
            }),
        };
    };
    fit(picture, wanted, options.resize).ok_or_else(|| DataError::WrongSize {
        file: file.to_path_buf(),
        size,
        wanted,
    })
}

fn decode_bytes(bytes: &[u8]) -> Result<DynamicImage, String> {
    let reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|error| error.to_string())?;
    if reader.format() == Some(ImageFormat::Jpeg) && !is_whole_jpeg(bytes) {
        return Err("the end-of-image marker is missing".to_owned());
    }
    let mut decoder = reader.into_decoder().map_err(|error| error.to_string())?;
    let upright = decoder.orientation().map_err(|error| error.to_string())?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|error| error.to_string())?;
    picture.apply_orientation(upright);
    Ok(if is_grey(&picture) {
        picture.into_luma8().into()
    } else {
        picture.into_rgb8().into()
    })
}

/// By its pixels: grey pictures are often stored as colour, with a palette or by a camera.
fn is_grey(picture: &DynamicImage) -> bool {
    let neutral = |pixel: &Rgb<u8>| pixel.0 == [pixel.0[0]; 3];
    !picture.color().has_color() || picture.to_rgb8().pixels().all(neutral)
}

/// The JPEG decoder paints what is missing grey and says nothing, so the end marker is looked for here.
fn is_whole_jpeg(bytes: &[u8]) -> bool {
    let mut at = 2;
    while let Some(&[first, second]) = bytes.get(at..at + 2) {
        at += match (first, second) {
            (0xFF, 0xD9) => return true,
            // Padding, or a byte of compressed data.
            (0xFF, 0xFF) | (0..=0xFE, _) => 1,
            // A stuffed zero or a restart marker in compressed data.
            (0xFF, 0x00 | 0x01 | 0xD0..=0xD8) => 2,
            // A segment with its length.
            (0xFF, _) => match bytes.get(at + 2..at + 4) {
                Some(&[high, low]) => 2 + usize::from(u16::from_be_bytes([high, low])),
                _ => return false,
            },
        };
    }
    false
}

fn common_shape(
    root: &Path,
    files: &[(usize, &PathBuf)],
    decoded: &[DynamicImage],
    options: &Options,
) -> Result<PictureShape, DataError> {
    let mut sizes = files
        .iter()
        .zip(decoded)
        .map(|(&(_, file), picture)| (file, size_of(picture)));
    let Some((first, first_size)) = sizes.next() else {
        return Err(DataError::NoPictures {
            path: root.to_path_buf(),
        });
    };
    if let Some((other, other_size)) = sizes.find(|&(_, size)| size != first_size) {
        let (first, other) = (first.clone(), other.clone());
        return Err(DataError::MixedSizes {
            first,
            first_size,
            other,
            other_size,
        });
    }
    let colour = decoded.iter().any(|picture| picture.color().has_color());
    let channels = options.channels.unwrap_or(if colour { 3 } else { 1 });
    Ok(PictureShape {
        height: first_size.0,
        width: first_size.1,
        channels,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::Resize;
    use image::{GrayImage, RgbImage};
    use tempfile::TempDir;

    /// A grey picture of this size, written in the format of its extension.
    fn write(folder: &Path, name: &str, (height, width): (u32, u32)) -> PathBuf {
        let file = folder.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let seed = name.len() as u32;
        GrayImage::from_fn(width, height, |x, y| {
            [((x * 31 + y * 17) ^ (x * y + seed)) as u8].into()
        })
        .save(&file)
        .unwrap();
        file
    }

    fn two_classes() -> TempDir {
        let root = tempfile::tempdir().unwrap();
        for name in ["b/2.png", "b/10.bmp", "a/z.JPG", "a/.hidden.png"] {
            write(root.path(), name, (6, 5));
        }
        fs::write(root.path().join("a/notes.txt"), "passed over").unwrap();
        root
    }

    fn train(root: &Path) -> Result<Dataset, DataError> {
        load(root, Part::Train, &Options::default())
    }

    fn train_error(root: &Path) -> String {
        train(root).unwrap_err().to_string()
    }

    #[test]
    fn classes_and_files_come_in_the_order_of_their_names() {
        let root = two_classes();
        let data = train(root.path()).unwrap();
        assert_eq!(
            data.shape,
            PictureShape {
                height: 6,
                width: 5,
                channels: 1
            }
        );
        assert_eq!(data.classes, ["a", "b"]);
        assert_eq!(
            data.pictures
                .iter()
                .map(|picture| picture.label)
                .collect::<Vec<_>>(),
            [0, 1, 1]
        );
        let ten = image::open(root.path().join("b/10.bmp"))
            .unwrap()
            .into_luma8()
            .into_raw();
        assert_eq!(data.pictures[1].pixels, ten);
    }

    #[test]
    fn one_picture_in_colour_makes_all_three_channels() {
        let root = two_classes();
        RgbImage::from_pixel(5, 6, [200, 100, 50].into())
            .save(root.path().join("a/y.png"))
            .unwrap();
        let data = train(root.path()).unwrap();
        assert_eq!(data.shape.channels, 3);
        assert_eq!(data.pictures[0].pixels[..3], [200, 100, 50]);
        assert!(
            data.pictures
                .iter()
                .all(|picture| picture.pixels.len() == data.shape.bytes())
        );
        let grey = load(
            root.path(),
            Part::Train,
            &Options {
                channels: Some(1),
                ..Options::default()
            },
        )
        .unwrap();
        assert_eq!(grey.shape.channels, 1);
    }

    #[test]
    fn parts_are_folders_of_class_folders() {
        let root = tempfile::tempdir().unwrap();
        for name in [
            "train/a/1.png",
            "train/b/1.png",
            "test/a/1.png",
            "test/b/1.png",
            "test/b/2.png",
        ] {
            write(root.path(), name, (4, 4));
        }
        assert_eq!(train(root.path()).unwrap().counts(), [1, 1]);
        assert_eq!(
            load(root.path(), Part::Test, &Options::default())
                .unwrap()
                .counts(),
            [1, 2]
        );

        write(root.path(), "train/c/1.png", (4, 4));
        let error = train_error(root.path());
        assert!(
            error.contains("(only in train: c; only in test: none)"),
            "{error}"
        );

        fs::remove_dir_all(root.path().join("test")).unwrap();
        assert_eq!(train(root.path()).unwrap().counts(), [1, 1, 1]);
        let error = load(root.path(), Part::Test, &Options::default()).unwrap_err();
        assert!(
            matches!(
                error,
                DataError::NoPart {
                    part: Part::Test,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn a_class_may_be_called_train() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "bus/1.png", (4, 4));
        write(root.path(), "train/1.png", (4, 4));
        assert_eq!(train(root.path()).unwrap().classes, ["bus", "train"]);
        let error = load(root.path(), Part::Test, &Options::default())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("no test part") && error.contains("/test"),
            "{error}"
        );
    }

    #[test]
    fn folders_without_classes_or_pictures_are_named() {
        let root = tempfile::tempdir().unwrap();
        assert!(matches!(
            train(&root.path().join("gone")),
            Err(DataError::NoSource { .. })
        ));
        assert!(matches!(
            train(root.path()),
            Err(DataError::NoClasses { .. })
        ));
        write(root.path(), "a/1.png", (4, 4));
        assert!(
            matches!(train(root.path()), Err(DataError::OneClass { class, .. }) if class == "a")
        );
        fs::create_dir(root.path().join("empty")).unwrap();
        let error = train_error(root.path());
        assert!(error.contains("empty: no pictures"), "{error}");
    }

    #[test]
    fn empty_parts_want_classes() {
        let root = tempfile::tempdir().unwrap();
        for part in ["train", "test"] {
            fs::create_dir(root.path().join(part)).unwrap();
        }
        let error = train_error(root.path());
        assert!(error.contains("train: no class folders"), "{error}");
    }

    #[test]
    fn pictures_beside_the_classes_of_a_part_are_no_part() {
        let root = tempfile::tempdir().unwrap();
        for name in ["train/a/1.png", "train/b/1.png", "test/1.png"] {
            write(root.path(), name, (4, 4));
        }
        let error = load(root.path(), Part::Test, &Options::default()).unwrap_err();
        assert!(matches!(error, DataError::NoClasses { folder } if folder.ends_with("test")));
    }

    #[test]
    fn a_picture_without_a_wanted_size_has_one_that_is_possible() {
        let root = two_classes();
        write(root.path(), "a/long.png", (2, 5000));
        let error = train_error(root.path());
        assert!(error.contains("long.png"), "{error}");
        assert!(error.contains("data.size"), "{error}");
    }

    #[test]
    fn a_cut_off_picture_is_named_in_every_format() {
        for name in ["a/cut.png", "a/cut.jpg", "a/cut.bmp"] {
            let root = two_classes();
            let file = write(root.path(), name, (40, 50));
            let whole = fs::read(&file).unwrap();
            for length in [0, 1, whole.len() / 4, whole.len() / 2, whole.len() - 20] {
                fs::write(&file, &whole[..length]).unwrap();
                let error = train(root.path()).unwrap_err();
                assert!(
                    matches!(&error, DataError::BadPicture { file: at, .. } if *at == file),
                    "{length}: {error}"
                );
            }
        }
    }

    #[test]
    fn the_first_bad_picture_is_named_whatever_the_threads_do() {
        let root = two_classes();
        for at in 0..50 {
            fs::write(
                root.path().join(format!("b/bad{at:02}.png")),
                b"not a picture",
            )
            .unwrap();
        }
        for _ in 0..10 {
            assert!(train_error(root.path()).contains("b/bad00.png"));
        }
    }

    #[test]
    fn mixed_sizes_need_a_rule() {
        let root = two_classes();
        write(root.path(), "b/3.png", (9, 12));
        let error = train_error(root.path());
        for part in [
            "a/z.JPG is 6x5",
            "b/3.png is 9x12",
            "`data.size`",
            "`data.resize`",
        ] {
            assert!(error.contains(part), "{error}");
        }
        let sized = |resize| {
            load(
                root.path(),
                Part::Train,
                &Options {
                    size: Some((6, 5)),
                    channels: None,
                    resize,
                },
            )
        };
        let error = sized(Resize::Exact).unwrap_err().to_string();
        assert!(
            error.contains("b/3.png: the picture is 9x12 and `data.size` asks for 6x5"),
            "{error}"
        );
        for rule in [Resize::Stretch, Resize::Crop] {
            let data = sized(rule).unwrap();
            assert_eq!(
                data.shape,
                PictureShape {
                    height: 6,
                    width: 5,
                    channels: 1
                }
            );
            assert!(
                data.pictures
                    .iter()
                    .all(|picture| picture.pixels.len() == 30)
            );
        }
    }

    #[test]
    fn a_photograph_is_turned_upright() {
        let root = two_classes();
        // Orientation 6 (turn right by 90 degrees), as a phone held upright writes it.
        let exif = b"\xFF\xE1\0\x22Exif\0\0MM\0\x2A\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let file = write(root.path(), "a/phone.jpg", (5, 6));
        let plain = fs::read(&file).unwrap();
        fs::write(&file, [&plain[..2], exif, &plain[2..]].concat()).unwrap();
        assert_eq!(
            train(root.path()).unwrap().shape,
            PictureShape {
                height: 6,
                width: 5,
                channels: 1
            }
        );
    }
}
