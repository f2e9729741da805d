// A figure opens enlarged when it is clicked.
document.addEventListener("DOMContentLoaded", () => {
  for (const image of document.querySelectorAll("article img")) {
    if (image.closest("a")) continue;
    const link = document.createElement("a");
    link.href = image.src;
    link.className = "figure";
    link.title = "Open the figure enlarged";
    image.replaceWith(link);
    link.append(image);
  }
});
