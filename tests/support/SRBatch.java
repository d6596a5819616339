// Runs PixelMed's DicomSRValidator over many files: its own program takes one, and starting it takes seconds.

import com.pixelmed.validate.DicomSRValidator;

class SRBatch {
    public static void main(String[] files) throws Exception {
        DicomSRValidator validator = new DicomSRValidator();
        for (String file : files) {
            System.out.println("\u0001" + file);
            try {
                System.out.println(validator.validate(file));
            } catch (Exception | StackOverflowError e) {
                System.out.println("Error: " + e.getClass().getName());
            }
        }
    }
}
