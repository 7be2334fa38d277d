package dataset

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	_ "image/gif" // registers its decoder
	_ "image/jpeg"
	_ "image/png"
	"io"
	"path"
	"strings"

	"golang.org/x/image/draw"
)

// maxPixels bounds what a small file may decode to: 64 MB at four bytes a pixel.
const maxPixels = 1 << 24

func isImage(base string) bool {
	switch strings.ToLower(path.Ext(base)) {
	case ".png", ".jpg", ".jpeg", ".gif":
		return true
	}
	return false
}

// ignored are hidden files and what file managers leave behind.
func ignored(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(part, ".") || part == "__MACOSX" || part == "Thumbs.db" || part == "desktop.ini" {
			return true
		}
	}
	return false
}

// openImages reads an archive of PNG, JPEG and GIF files; the folder an image lies in is its class.
func openImages(r *raw, o Options) (*decoder, error) {
	wrap, _, err := r.inspect()
	if err != nil {
		return nil, err
	}
	lay, ok := layoutOf(o.Input.Shape)
	if !ok {
		return nil, fmt.Errorf("the app's input %v is no image: expected [height, width], or with 1 or 3 channels first or last", o.Input.Shape)
	}
	return &decoder{run: func(yield func(*example) error) error {
		d := &imageDecoder{layout: lay, resize: o.Input.Resize, values: newValues(o.Input), pixels: make([]byte, o.Input.Values()), yield: yield}
		if err := r.walk(wrap, d.member); err != nil {
			return err
		}
		if d.images == 0 {
			return errors.New("no PNG, JPEG or GIF file in a folder of the archive: expected one folder a class")
		}
		return nil
	}}, nil
}

type imageDecoder struct {
	layout layout
	resize bool
	values *values
	pixels []byte
	file   bytes.Buffer
	yield  func(*example) error
	images int64
}

func (d *imageDecoder) member(name string, size int64, in io.Reader) error {
	if ignored(name) {
		return nil
	}
	folder := path.Base(path.Dir(name))
	switch {
	case !isImage(name):
		return fmt.Errorf("%q is no PNG, JPEG or GIF file: remove it from the dataset", name)
	case folder == ".":
		return fmt.Errorf("%q lies in no folder: expected one folder a class", name)
	case size > maxRecord:
		return fmt.Errorf("%q has %d bytes, at most %d are read", name, size, maxRecord)
	}
	d.file.Reset()
	if _, err := d.file.ReadFrom(in); err != nil {
		return err
	}
	if err := d.decode(); err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	d.values.reset()
	if err := d.values.putBytes(d.pixels); err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	d.images++
	return d.yield(&example{place: place{member: name}, label: folder, data: d.values.buf})
}

// decode turns the file into pixels of the layout.
func (d *imageDecoder) decode() error {
	config, _, err := image.DecodeConfig(bytes.NewReader(d.file.Bytes()))
	if err != nil {
		return fmt.Errorf("decode image: %w", err)
	}
	w, h := d.layout.width, d.layout.height
	switch {
	case config.Width < 1 || config.Height < 1:
		return errors.New("the image is empty")
	case config.Width > maxPixels/config.Height:
		return fmt.Errorf("the image has %d x %d pixels, at most %d are read", config.Width, config.Height, maxPixels)
	case !d.resize && (config.Width != w || config.Height != h):
		return fmt.Errorf("the image is %d wide and %d high, expected %d and %d; images are scaled only if the app says so", config.Width, config.Height, w, h)
	}
	picture, _, err := image.Decode(bytes.NewReader(d.file.Bytes()))
	if err != nil {
		return fmt.Errorf("decode image: %w", err)
	}
	if b := picture.Bounds(); b.Dx() != w || b.Dy() != h {
		if !d.resize {
			return fmt.Errorf("the image is %d wide and %d high, expected %d and %d", b.Dx(), b.Dy(), w, h)
		}
		scaled := image.NewNRGBA(image.Rect(0, 0, w, h))
		draw.BiLinear.Scale(scaled, scaled.Bounds(), picture, b, draw.Src, nil)
		picture = scaled
	}
	return d.copyPixels(picture)
}

// copyPixels fills d.pixels. Colour is made grey, and transparency dropped, only if the app says so: both lose information.
func (d *imageDecoder) copyPixels(picture image.Image) error {
	l, b := d.layout, picture.Bounds()
	if p, ok := picture.(interface{ Opaque() bool }); ok && p.Opaque() {
		// Without transparency both colour models are the same bytes, and this one has fast conversions.
		flat := image.NewRGBA(image.Rect(0, 0, l.width, l.height))
		draw.Draw(flat, flat.Bounds(), picture, b.Min, draw.Src)
		return d.place(flat.Pix)
	}
	if !d.resize {
		return errors.New("the image is partly transparent; transparency is dropped only if the app says so")
	}
	flat := image.NewNRGBA(image.Rect(0, 0, l.width, l.height))
	for y := range l.height {
		for x := range l.width {
			flat.Set(x, y, picture.At(b.Min.X+x, b.Min.Y+y))
		}
	}
	return d.place(flat.Pix)
}

// place lays red, green, blue and alpha bytes out as the input's shape says.
func (d *imageDecoder) place(rgba []byte) error {
	l := d.layout
	plane := l.width * l.height
	for i := range plane {
		r, g, b := rgba[4*i], rgba[4*i+1], rgba[4*i+2]
		switch {
		case l.channels == 1 && r == g && g == b:
			d.pixels[i] = r
		case l.channels == 1:
			if !d.resize {
				return errors.New("the image has colours, expected grey; they are dropped only if the app says so")
			}
			d.pixels[i] = color.GrayModel.Convert(color.RGBA{r, g, b, 255}).(color.Gray).Y
		case l.last:
			d.pixels[3*i], d.pixels[3*i+1], d.pixels[3*i+2] = r, g, b
		default:
			d.pixels[i], d.pixels[plane+i], d.pixels[2*plane+i] = r, g, b
		}
	}
	return nil
}
